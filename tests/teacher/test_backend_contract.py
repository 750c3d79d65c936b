"""What every teacher promises, whichever service answers: one text of tests over all backends."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from common.config.teacher import LabellingConfig, TeacherConfig
from common.errors import JobPaused
from common.records import Example, Reason, TeacherAnswer, Unanswered
from common.task import load_task
from teacher.base import Go, Teacher, at_once
from teacher.build import TeacherSettings, build_teacher
from teacher.cache import MemoryCache
from teacher.labelling import label_examples
from teacher.loops import close_loop, run
from teacher.services import local_services
from tests.doubles import wire_double as wire

TASK = load_task("sentiment")
ROWS = [
    Example(id=f"r{i}", text=f"Unit {i} reported {word} news for the quarter.")
    for i, word in enumerate(["positive", "negative", "neutral"] * 4)
]


@dataclass
class Backend:
    """A way to build one kind of teacher, and to make it answer badly."""

    make: Callable[..., Teacher]
    asked: Callable[[], int]
    spoil: Callable[[str], None]
    prompted: bool = True


@pytest.fixture(params=["recorded", "claude", "vllm"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if request.param == "recorded":
        yield recorded_backend(tmp_path)
    else:
        with wire.WireDouble() as double:
            yield wire_backend(request.param, double)
    close_loop()


def recorded_backend(folder: Path) -> Backend:
    path = folder / "answers.jsonl"
    calls: list[str] = []

    def write(raw: str | None = None) -> None:
        rows = [{"id": row.id, "raw": raw or json.dumps(good(row.text))} for row in ROWS]
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def make(**settings: Any) -> Teacher:
        teacher = build(kind="recorded", answers=str(path), raw_column="raw", **settings)
        original = teacher.ask

        async def counted(question: Any, go: Go = at_once) -> Any:
            calls.append(question.key)
            return await original(question, go)

        teacher.ask = counted  # type: ignore[method-assign]
        return teacher

    write()
    return Backend(make, lambda: len(calls), write, prompted=False)


def wire_backend(kind: str, double: Any) -> Backend:
    model = {"claude": "claude-haiku-5-5", "vllm": "tiny-llama"}[kind]

    def make(**settings: Any) -> Teacher:
        return build(double, kind=kind, model=model, **settings)

    def spoil(raw: str) -> None:
        double.write = lambda text, schema: raw

    return Backend(make, lambda: sum(double.asked.values()), spoil)


def build(double: Any = None, **settings: Any) -> Teacher:
    config: TeacherConfig = TypeAdapter(TeacherConfig).validate_python(settings)
    url, key = (double.url, double.key) if double else (None, None)
    return build_teacher(config, TASK, TeacherSettings(key, url, url, key))


def good(text: str) -> dict[str, Any]:
    label = next(name for name in TASK.label_names if name in text)
    rationale = "The company reports a change that moves its expected earnings."
    return {"label": label, "rationale": rationale, "confidence": 0.9}


def label(teacher: Teacher, rows: list[Example], cache: MemoryCache | None = None) -> list[Any]:
    services = local_services(cache=cache)
    try:
        return label_examples(rows, teacher, LabellingConfig(), services)
    finally:
        run(teacher.close())


def test_every_row_is_answered_in_order_with_label_and_rationale(backend: Backend) -> None:
    answers = label(backend.make(), ROWS)

    assert [answer.example_id for answer in answers] == [row.id for row in ROWS]
    assert all(isinstance(answer, TeacherAnswer) for answer in answers)
    assert [answer.label for answer in answers] == [good(row.text)["label"] for row in ROWS]
    assert all(answer.rationale and answer.confidence == 0.9 for answer in answers)


def test_a_second_run_asks_nothing_and_answers_the_same(backend: Backend) -> None:
    cache = MemoryCache()
    first = label(backend.make(), ROWS, cache)
    asked = backend.asked()

    second = label(backend.make(), ROWS, cache)

    assert backend.asked() == asked == len(ROWS)
    assert all(answer.cached for answer in second)
    assert [a.label for a in second] == [a.label for a in first]


def test_one_new_row_among_cached_ones_costs_one_request(backend: Backend) -> None:
    cache = MemoryCache()
    label(backend.make(), ROWS[1:], cache)
    asked = backend.asked()

    label(backend.make(), ROWS, cache)

    assert backend.asked() == asked + 1


def test_another_prompt_never_gets_the_old_answer(backend: Backend) -> None:
    cache = MemoryCache()
    label(backend.make(), ROWS, cache)
    asked = backend.asked()

    label(backend.make(rationale="before_label"), ROWS, cache)

    # what is recorded was answered before any prompt of ours
    assert backend.asked() == asked + (len(ROWS) if backend.prompted else 0)


@pytest.mark.parametrize(
    ("raw", "reasons"),
    [
        # recorded free text is read as "label, line break, reasons"
        ("Sure! It looks good.", {Reason.NOT_JSON, Reason.UNKNOWN_LABEL}),
        ('{"label": "upbeat", "rationale": "Profit rose by a lot."}', {Reason.UNKNOWN_LABEL}),
        ('{"label": "positive", "rationale": ""}', {Reason.NO_RATIONALE}),
        ('{"label": 3}', {Reason.SCHEMA}),
        ("I'm sorry, but I cannot help with that.", {Reason.REFUSED}),
    ],
)
def test_a_reply_that_cannot_be_used_is_a_value_with_its_reason(
    backend: Backend, raw: str, reasons: set[Reason]
) -> None:
    backend.spoil(raw)

    answers = label(backend.make(), ROWS[:3])

    assert [type(answer) for answer in answers] == [Unanswered] * 3
    assert {answer.reason for answer in answers} <= reasons


def test_a_request_stands_ready_and_is_sent_only_when_it_may_go(backend: Backend) -> None:
    async def ask(teacher: Teacher) -> tuple[int, Any]:
        may, arrived = asyncio.Event(), asyncio.Event()

        async def go() -> None:
            arrived.set()
            await may.wait()

        asked = asyncio.create_task(teacher.ask(teacher.question(ROWS[0], 0), go))
        await asyncio.wait_for(arrived.wait(), 10)
        await asyncio.sleep(0.05)  # long enough for a request to reach the double
        before = backend.asked() if backend.prompted else 0
        may.set()
        reply = await asked
        await teacher.close()
        return before, reply

    before, reply = run(ask(backend.make()))

    assert before == 0
    assert reply.seconds < 0.05 or not backend.prompted


def test_what_forbids_a_request_comes_through_as_it_is(backend: Backend) -> None:
    async def ask(teacher: Teacher) -> None:
        async def go() -> None:
            raise JobPaused("the budget is reached.")

        try:
            await teacher.ask(teacher.question(ROWS[0], 0), go)
        finally:
            await teacher.close()

    with pytest.raises(JobPaused, match="the budget is reached"):
        run(ask(backend.make()))
    assert not backend.prompted or backend.asked() == 0


def test_a_question_is_pure_and_its_key_is_of_the_text_not_of_the_row(backend: Backend) -> None:
    teacher = backend.make()
    twin = Example(id=ROWS[0].id, text=ROWS[0].text, label="positive", meta={"source": "x"})

    first, again = teacher.question(ROWS[0], 0), teacher.question(twin, 0)

    assert first.key == again.key
    assert first.key != teacher.question(ROWS[1], 0).key
    assert len(first.key) == 64
    run(teacher.close())


def test_a_teacher_says_what_it_is(backend: Backend) -> None:
    teacher = backend.make(name="mine")

    assert teacher.name == "mine"
    assert teacher.provider in ("recorded", "claude", "vllm")
    assert teacher.terms
    assert teacher.samples == 1
    run(teacher.close())
