"""vLLM over HTTP, against a wire-level double that ignores and refuses what vLLM does."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from common.config.teacher import VllmTeacher
from common.errors import TeacherRejected
from common.records import Example, Reason, TeacherAnswer, Unanswered
from common.task import load_task
from teacher.backends.vllm import Vllm, top_logprobs
from teacher.base import Question, RateLimited, Reply, RowRejected, Unavailable
from teacher.prompts import load_prompt
from tests.doubles import wire_double as wire

RISE = Example(id="r1", text="Quarterly profit rose to EUR 4.1 million, a positive surprise.")


@pytest.fixture
def double() -> Iterator[Any]:
    with wire.WireDouble() as running:
        yield running


def vllm(double: Any, key: str | None = None, **settings: Any) -> Vllm:
    config = VllmTeacher(kind="vllm", **{"model": "tiny-llama", **settings})
    task = load_task("sentiment")
    bound = load_prompt(task.teacher_prompt).bind(task, config.rationale)
    return Vllm(config, bound, double.url, double.key if key is None else key)


def exchange(teacher: Vllm, *examples: Example) -> list[tuple[Question, Reply]]:
    async def run() -> list[tuple[Question, Reply]]:
        asked = [teacher.question(example, 0) for example in examples]
        try:
            return [(question, await teacher.ask(question)) for question in asked]
        finally:
            await teacher.close()

    return asyncio.run(run())


def ask(teacher: Vllm, example: Example = RISE) -> TeacherAnswer | Unanswered:
    [(question, reply)] = exchange(teacher, example)
    return teacher.read(question, reply)


def test_a_question_is_answered_with_label_probabilities(double: Any) -> None:
    double.probabilities = (0.05, 0.15, 0.8)

    answer = ask(vllm(double))

    assert isinstance(answer, TeacherAnswer)
    assert answer.label == "positive"
    assert answer.probabilities == pytest.approx(
        {"negative": 0.05, "neutral": 0.15, "positive": 0.8}
    )
    assert answer.confidence == 0.9  # what it stated stays beside it


def test_the_schema_goes_where_vllm_looks_for_it(double: Any) -> None:
    exchange(vllm(double), RISE)

    body = double.seen[0].body
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["schema"]["required"][0] == "label"
    assert body["top_logprobs"] == top_logprobs(3) == 8
    assert not [name for name in body if name.startswith("guided_")]


def test_instructions_come_first_and_the_text_last(double: Any) -> None:
    other = Example(id="r2", text="Sales were flat.")

    exchange(vllm(double), RISE, other)

    first, second = (seen.body["messages"] for seen in double.seen)
    assert first[0]["role"] == "system"
    assert first[:-1] == second[:-1]
    assert "Sales were flat." in second[-1]["content"]


def test_a_reply_is_checked_by_us_whatever_the_server_promised(double: Any) -> None:
    double.write = lambda text, schema: '{"label": "upbeat", "rationale": "It rose a lot."}'

    answer = ask(vllm(double))

    assert isinstance(answer, Unanswered)
    assert answer.reason is Reason.UNKNOWN_LABEL


def test_a_reply_cut_at_the_limit_is_truncated(double: Any) -> None:
    answer = ask(vllm(double, max_output_tokens=12))

    assert isinstance(answer, Unanswered)
    assert answer.reason is Reason.TRUNCATED


def test_only_the_labels_tokens_are_kept_of_the_token_probabilities(double: Any) -> None:
    [(_, reply)] = exchange(vllm(double), RISE)

    kept = "".join(t["token"] for t in reply.body["choices"][0]["logprobs"]["content"])
    assert '"positive"' in kept
    assert "rationale" not in kept
    assert json.loads(reply.dump())["body"] == reply.body


def test_without_logprobs_there_are_no_probabilities(double: Any) -> None:
    answer = ask(vllm(double, logprobs=False))

    assert isinstance(answer, TeacherAnswer)
    assert answer.probabilities is None
    assert "logprobs" not in double.seen[0].body


def test_samples_differ_by_seed_once_there_is_a_temperature(double: Any) -> None:
    cold, warm = vllm(double), vllm(double, temperature=0.7, top_p=0.9, samples=3)

    assert "seed" not in cold.question(RISE, 2).payload
    assert [warm.question(RISE, i).payload["seed"] for i in range(3)] == [0, 1, 2]
    assert len({warm.question(RISE, i).key for i in range(3)}) == 3


def test_samples_that_could_not_differ_are_a_fault() -> None:
    with pytest.raises(ValueError, match="all the same at temperature 0"):
        VllmTeacher(kind="vllm", model="m", samples=3)


def test_the_key_covers_what_can_change_the_answer_and_nothing_else(double: Any) -> None:
    base = vllm(double).question(RISE, 0)
    twin = Example(id="other", text=RISE.text)

    changed = [
        vllm(double, temperature=0.5).question(RISE, 0),
        vllm(double, top_p=0.5).question(RISE, 0),
        vllm(double, model="other").question(RISE, 0),
        vllm(double, max_output_tokens=99).question(RISE, 0),
        vllm(double, logprobs=False).question(RISE, 0),
        vllm(double, rationale="none").question(RISE, 0),
    ]

    assert vllm(double, key="other", usd_per_gpu_hour=2.0).question(twin, 0).key == base.key
    assert len({base.key, *(question.key for question in changed)}) == 7


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("503", RateLimited),  # a full queue says 503 without retry-after
        ("429", RateLimited),
        ("500", Unavailable),
        ("cut", Unavailable),
        ("truncated", Unavailable),
        ("not_json", Unavailable),
    ],
)
def test_passing_failures_can_be_asked_again(
    double: Any, kind: str, error: type[Exception]
) -> None:
    double.faults = [wire.Fault(kind)]

    with pytest.raises(error):
        exchange(vllm(double), RISE)

    assert len(double.seen) <= 1


def test_a_server_that_hangs_is_unavailable_after_the_timeout(double: Any) -> None:
    double.faults = [wire.Fault("hang")]

    with pytest.raises(Unavailable, match="did not answer in time"):
        exchange(vllm(double, pace={"timeout_seconds": 0.2}), RISE)


def test_nobody_listening_is_unavailable_and_says_where(double: Any) -> None:
    double.url = "http://127.0.0.1:9/v1"

    with pytest.raises(Unavailable, match=r"vLLM at http://127\.0\.0\.1:9 failed"):
        exchange(vllm(double), RISE)


def test_a_text_too_long_for_the_model_is_that_row_alone(double: Any) -> None:
    double.max_model_len = 300

    with pytest.raises(RowRejected, match="maximum context length is 300"):
        exchange(vllm(double), RISE)


def test_a_wrong_key_ends_the_job_with_the_cure(double: Any) -> None:
    with pytest.raises(TeacherRejected, match=r"401: .*; set VLLM_API_KEY"):
        exchange(vllm(double, key="wrong"), RISE)


def test_a_model_that_is_not_served_ends_the_job_with_the_cure(double: Any) -> None:
    with pytest.raises(TeacherRejected, match=r"404: .*; check teacher.model against"):
        exchange(vllm(double, model="llama-9"), RISE)


def test_the_address_may_end_in_v1(double: Any) -> None:
    double.url += "/v1/"

    assert isinstance(ask(vllm(double)), TeacherAnswer)


def test_the_servers_queue_can_be_read(double: Any) -> None:
    double.waiting = 17
    teacher = vllm(double)

    async def run() -> int | None:
        try:
            return await teacher.waiting()
        finally:
            await teacher.close()

    assert asyncio.run(run()) == 17


def test_a_server_costs_nothing_unless_its_hour_has_a_price(double: Any) -> None:
    [(question, reply)] = exchange(vllm(double), RISE)

    assert question.most_usd == reply.usage.usd == 0
    assert not vllm(double).paid


def test_an_hourly_price_is_shared_by_the_requests_at_a_time(double: Any) -> None:
    double.latency = 0.05
    pace = {"max_concurrency": 10, "timeout_seconds": 36.0}
    teacher = vllm(double, usd_per_gpu_hour=2.0, pace=pace)

    [(question, reply)] = exchange(teacher, RISE)

    assert teacher.paid
    assert question.most_usd == pytest.approx(2.0 * 36 / 3600 / 10)
    assert reply.usage.usd == pytest.approx(2.0 * reply.seconds / 3600 / 10)


def test_a_refusal_in_the_servers_own_field_is_refused(double: Any) -> None:
    teacher = vllm(double)
    [(question, reply)] = exchange(teacher, RISE)
    message = {"role": "assistant", "content": None, "refusal": "No."}
    choice = {**reply.body["choices"][0], "message": message, "logprobs": None}

    answer = teacher.read(question, Reply({"choices": [choice]}, reply.usage, "m"))

    assert isinstance(answer, Unanswered)
    assert answer.reason is Reason.REFUSED


def test_the_double_answers_prose_to_a_field_vllm_ignores(double: Any) -> None:
    teacher = vllm(double)
    question = teacher.question(RISE, 0)
    schema = question.payload["response_format"]["json_schema"]["schema"]
    payload = {k: v for k, v in question.payload.items() if k != "response_format"}
    old = Question("r1", RISE.text, 0, {}, {**payload, "guided_json": schema})

    async def run() -> Reply:
        try:
            return await teacher.ask(old)
        finally:
            await teacher.close()

    answer = teacher.read(question, asyncio.run(run()))

    assert isinstance(answer, Unanswered)
    assert answer.reason is Reason.NOT_JSON
