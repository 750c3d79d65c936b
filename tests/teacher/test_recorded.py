"""Recorded answers take the same way as live ones: cache, checks, reasons."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.config.teacher import LabellingConfig, RecordedTeacher
from common.errors import InputError, TeacherUnfit, UsageError
from common.records import Example, Reason, TeacherAnswer, Unanswered
from common.task import load_task
from teacher.build import TeacherSettings, build_teacher
from teacher.cache import MemoryCache
from teacher.labelling import label_examples
from teacher.loops import close_loop
from teacher.quality import judge_probe, judge_smoke
from teacher.services import local_services

TASK = load_task("sentiment")
LABELLING = LabellingConfig()
SHARED = Path(__file__).parents[2].parent / "shared" / "data"
DEMO = Path(__file__).parents[2] / "configs" / "demo" / "claude_answers_train.jsonl"
WHY = "Orders grew, which supports earnings."
ROWS: list[dict[str, Any]] = [
    {"id": "a", "label": "positive", "rationale": WHY, "confidence": 0.9, "teacher": "t1"},
    {"id": "b", "label": "neutral", "rationale": "It only states a plan.", "teacher": "t1"},
    {"id": "b", "label": "negative", "rationale": "The plan costs a lot.", "teacher": "t2"},
    {"id": "ü", "label": "mixed", "rationale": "It could go either way.", "teacher": "t1"},
]
TEXTS = [Example(id=i, text=f"The text of {i}.") for i in ("a", "b", "ü", "z")]
Label = Callable[..., list[Any]]


@pytest.fixture(params=["jsonl", "parquet"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    def to_file(rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / f"answers.{request.param}"
        if request.param == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            path.write_text("\n".join(lines), encoding="utf-8")
        os.utime(path, ns=(0, abs(hash(str(rows))) % 10**15))
        return path

    return to_file


@pytest.fixture
def label() -> Iterator[Label]:
    cache = MemoryCache()

    def with_config(path: Path, texts: list[Example] = TEXTS, **values: Any) -> list[Any]:
        config = RecordedTeacher(kind="recorded", answers=path, **values)
        teacher = build_teacher(config, TASK, TeacherSettings())
        return label_examples(texts, teacher, LABELLING, local_services(cache=cache))

    yield with_config
    close_loop()


def test_answers_are_joined_by_id_and_checked(write: Any, label: Label) -> None:
    a, b, odd, missing = label(write(ROWS), only={"teacher": "t1"}, name="t1")

    assert (a.label, a.rationale, a.confidence, a.model) == ("positive", WHY, 0.9, "t1")
    assert (b.label, b.confidence) == ("neutral", None)
    assert (odd.reason, missing.reason) == (Reason.UNKNOWN_LABEL, Reason.NOT_RECORDED)


def test_one_file_may_hold_several_teachers(write: Any, label: Label) -> None:
    path = write(ROWS)

    assert label(path, only={"teacher": "t1"})[1].label == "neutral"
    assert label(path, only={"teacher": "t2"})[1].label == "negative"


def test_the_second_time_the_cache_answers(write: Any, label: Label) -> None:
    path = write(ROWS)
    label(path)

    assert all(answer.cached for answer in label(path))


def test_a_changed_file_never_gives_a_stale_answer(write: Any, label: Label) -> None:
    before = label(write(ROWS))[0]

    after = label(write([{**ROWS[0], "label": "negative"}, *ROWS[1:]]))[0]

    assert (before.label, after.label) == ("positive", "negative")
    assert not after.cached


def test_samples_are_the_numbers_with_a_rationale_or_those_without(
    write: Any, label: Label
) -> None:
    path = write([
        {"id": "a", "sample": 0, "label": "neutral", "rationale": ""},
        {"id": "a", "sample": 2, "label": "negative", "rationale": "Orders fell a lot."},
        {"id": "a", "sample": 1, "label": "positive", "rationale": WHY},
    ])  # fmt: skip

    with_reasons = label(path, TEXTS[:1], samples=2)
    without = label(path, TEXTS[:1], rationale="none")

    assert [(a.sample, a.label) for a in with_reasons] == [(0, "positive"), (1, "negative")]
    assert [(a.label, a.rationale) for a in without] == [("neutral", None)]


def test_more_samples_than_recorded_are_refused(write: Any, label: Label) -> None:
    with pytest.raises(InputError, match=r"2 are asked for, but .* has 1 sample"):
        label(write(ROWS), samples=2)


def test_raw_generations_are_parsed(write: Any, label: Label) -> None:
    raw = f"[INST] Label this: The text of a.[/INST] POSITIVE\n\n{WHY}"

    answers = label(write([{"id": "a", "raw": raw}]), TEXTS[:1], raw_column="raw")

    assert (answers[0].label, answers[0].rationale) == ("positive", WHY)


def test_a_long_line_is_read_whole(write: Any, label: Label) -> None:
    raw = json.dumps({"label": "positive", "rationale": WHY, "confidence": 0.5}) + " " * 200_000

    answers = label(write([{"id": "a", "raw": raw}, *ROWS]), TEXTS[:1], raw_column="raw")

    assert answers[0].label == "positive"


@pytest.mark.parametrize(
    ("rows", "values", "sentence"),
    [
        ([{"key": "a", "label": "x"}], {}, "has no id column .*; it has key, label"),
        (ROWS, {"id_column": "nr"}, r"no id column \(nr\)"),
        (ROWS, {"only": {"tutor": "t1"}}, "has no column 'tutor'"),
        (ROWS, {"only": {"teacher": "t9"}}, "no recorded answers with"),
        (ROWS, {"raw_column": "text"}, "has no column 'text'"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_what_it_has(
    write: Any, label: Label, rows: list[dict[str, Any]], values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        label(write(rows), **values)


def test_missing_and_broken_files_are_named(tmp_path: Path, label: Label) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": "a"}\n{"id": ', encoding="utf-8")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")

    with pytest.raises(InputError, match=r"none\.jsonl cannot be read"):
        label(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"line 2 of .* is not JSON"):
        label(tmp_path / "bad.jsonl")
    with pytest.raises(InputError, match="is not a Parquet file"):
        label(tmp_path / "bad.parquet")


def test_a_missing_key_names_the_variable() -> None:
    from pydantic import TypeAdapter

    from common.config.teacher import TeacherConfig

    adapter: TypeAdapter[Any] = TypeAdapter(TeacherConfig)
    claude = adapter.validate_python({"kind": "claude", "model": "claude-haiku-5-5"})
    vllm = adapter.validate_python({"kind": "vllm", "model": "llama"})

    with pytest.raises(UsageError, match="set ANTHROPIC_API_KEY"):
        build_teacher(claude, TASK, TeacherSettings())
    with pytest.raises(UsageError, match="set VLLM_BASE_URL"):
        build_teacher(vllm, TASK, TeacherSettings())
    assert "secret" not in repr(TeacherSettings(anthropic_api_key="secret"))


def test_the_shipped_demo_answers_are_usable(label: Label) -> None:
    corpus = DEMO.with_name("corpus.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in corpus]
    texts = [Example(id=r["id"], text=r["text"]) for r in rows if r["split"] == "train"]

    answers = label(DEMO, texts)

    assert len(answers) == 900
    assert sum(isinstance(a, Unanswered) for a in answers) == 0


@pytest.mark.skipif(not SHARED.exists(), reason="needs the data folder beside the checkout")
class TestGate:
    """The smoke run and the gold probe on real recorded teachers."""

    def judged(self, label: Label, ids: str, **values: Any) -> tuple[Any, Any]:
        lines = (SHARED / "fpb" / "fpb.jsonl").read_text(encoding="utf-8").splitlines()
        rows = {row["id"]: row for row in map(json.loads, lines)}
        path = SHARED / "teacher_answers" / ids
        recorded = [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]
        only = values.get("only", {})
        known = dict.fromkeys(
            r["fpb_id"] for r in recorded if all(r[name] == value for name, value in only.items())
        )
        texts = [
            Example(id=i, text=rows[i]["sentence"], label=rows[i]["label"])
            for i in list(known)[:64]
        ]
        answers = label(path, texts, **values)
        smoke = judge_smoke(answers[: 16 * values.get("samples", 1)], LABELLING, TASK)
        return smoke, judge_probe(answers, {t.id: str(t.label) for t in texts}, LABELLING)

    def test_a_teacher_that_echoes_and_says_negative_to_all_is_stopped(self, label: Label) -> None:
        with pytest.raises(TeacherUnfit, match=r"agrees with the gold labels on \d+ of 64 .*'neg"):
            self.judged(label, "llama2_70b_raw_fpb_train.jsonl", raw_column="raw")

    def test_claude_and_mixtral_pass(self, label: Label) -> None:
        _, claude = self.judged(label, "claude_fpb_train.jsonl")
        smoke, mixtral = self.judged(
            label,
            "mixtral_gpt4_llama_fpb_train.jsonl",
            only={"teacher": "mixtral-8x7b-instruct-v0.1"},
            samples=3,
        )

        assert claude.accuracy > 0.8
        assert mixtral.accuracy > 0.8
        assert smoke.parse_rate > 0.9


def test_an_answer_of_the_recorded_teacher_is_a_teacher_answer(write: Any, label: Label) -> None:
    answers = label(write(ROWS), TEXTS[:1])

    assert isinstance(answers[0], TeacherAnswer)
    assert answers[0].usage.usd == 0
