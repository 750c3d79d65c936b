"""A reply is understood, or the reason why not is a value; nothing is guessed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.records import Reason
from common.task import load_task
from teacher.parsing import AnswerReader, Fault, Reading
from teacher.prompts import load_prompt

TASK = load_task("sentiment")
BOUND = load_prompt("sentiment-v1").bind(TASK, "after_label")
TEXT = "Birchline Oy's operating profit rose to EUR 4 million."
WHY = "Operating profit rose, which supports earnings."
READER = AnswerReader(BOUND)
SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def reply(**values: Any) -> str:
    return json.dumps({"label": "positive", "rationale": WHY, "confidence": 0.9, **values})


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def reason(raw: str, text: str = TEXT) -> Reason | None:
    outcome = READER.read(raw, text)
    return outcome.reason if isinstance(outcome, Fault) else None


@pytest.mark.parametrize(
    "raw",
    [
        reply(),
        f"```json\n{reply()}\n```",
        f"Let me think: sales rose.\n{reply()}",
        reply(label="Positive."),
        reply(label="bullish"),
    ],
)
def test_an_answer_is_read_however_it_is_wrapped(raw: str) -> None:
    assert READER.read(raw, TEXT) == Reading("positive", WHY, 0.9)


def test_the_last_of_several_objects_counts() -> None:
    draft = reply(label="neutral")

    assert READER.read(f"{draft} or rather {reply()}", TEXT) == Reading("positive", WHY, 0.9)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", Reason.EMPTY),
        ("  \n", Reason.EMPTY),
        ("positive", Reason.NOT_JSON),
        ('{"label": "positive", "ratio', Reason.NOT_JSON),
        ('["positive"]', Reason.NOT_JSON),
        ('{"sentiment": "positive"}', Reason.SCHEMA),
        (reply(label=None), Reason.SCHEMA),
        (reply(mood="good"), Reason.SCHEMA),
        (reply(rationale=["a", "b"]), Reason.SCHEMA),
        (reply(confidence=95), Reason.SCHEMA),
        (reply(confidence=True), Reason.SCHEMA),
        (reply(label="mixed"), Reason.UNKNOWN_LABEL),
        (reply(label="not positive"), Reason.UNKNOWN_LABEL),
        (reply(rationale=""), Reason.NO_RATIONALE),
        (reply(rationale="FAIL"), Reason.NO_RATIONALE),
        (reply(rationale=None), Reason.NO_RATIONALE),
        (reply(rationale="Profit rose."), Reason.RATIONALE_LENGTH),
        (reply(rationale="Der Gewinn ist gestiegen und das ist gut."), Reason.RATIONALE_LANGUAGE),
        (reply(rationale="営業利益 が 増加 したため、株価に良い影響"), Reason.RATIONALE_LANGUAGE),
        (reply(rationale=TEXT), Reason.ECHO),
        (reply(rationale=BOUND.system[:400]), Reason.ECHO),
        (reply(rationale="[INST] Classify the text [/INST]"), Reason.ECHO),
        ("I'm sorry, I cannot help with financial advice.", Reason.REFUSED),
    ],
)  # fmt: skip
def test_each_fault_has_its_reason(raw: str, expected: Reason) -> None:
    assert reason(raw) == expected


def test_a_cut_or_refused_reply_is_told_by_the_service_not_by_its_text() -> None:
    cut = READER.read(reply(), TEXT, stop="truncated")
    refused = READER.read(reply(), TEXT, stop="refused")

    assert isinstance(cut, Fault)
    assert isinstance(refused, Fault)
    assert (cut.reason, refused.reason) == (Reason.TRUNCATED, Reason.REFUSED)


@pytest.mark.parametrize(
    "why",
    [
        "Sales fell by half, so the sentiment is negative.",
        "The loss widened. This is negative for investors.",
        "The text indicates a clearly negative development for the company.",
    ],
)
def test_reasons_for_another_label_contradict(why: str) -> None:
    assert reason(reply(rationale=why)) == Reason.CONTRADICTION


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("neutral", "The text is neither positive nor negative for investors."),
        ("neutral", "It does not say whether this is positive for investors."),
        ("neutral", "A new board member could be seen as positive, but no effect is stated."),
        ("positive", "Operating cash flow turned from a negative EUR 2 million to a surplus."),
        ("negative", "The smaller loss is positive, yet a loss is negative for earnings."),
        ("positive", "The analyst raised the share from neutral to buy."),
    ],
)
def test_labels_used_as_words_or_denied_do_not_contradict(label: str, why: str) -> None:
    assert reason(reply(label=label, rationale=why)) is None


def test_without_rationale_none_is_needed_and_none_is_kept() -> None:
    reader = AnswerReader(load_prompt("sentiment-v1").bind(TASK, "none"))

    assert reader.read('{"label": "neutral"}', TEXT) == Reading("neutral", None, None)


def test_a_raw_generation_with_its_prompt_repeated_is_read_after_the_echo() -> None:
    raw = f"[INST]<<SYS>>Label it.<</SYS>> The sentence: {TEXT}[/INST]  POSITIVE\n\n{WHY}"
    reader = AnswerReader(BOUND, free_text=True)

    assert reader.read(raw, TEXT) == Reading("positive", WHY, None)


def test_a_label_set_with_capitals_reads_and_contradicts_alike() -> None:
    task = TASK.model_copy(
        update={"labels": [lb.model_copy(update={"name": lb.name.upper()}) for lb in TASK.labels]}
    )
    reader = AnswerReader(load_prompt("sentiment-v1").bind(task, "after_label"))

    good = reader.read(reply(rationale="Profit rose, which is positive for the owners."), TEXT)
    bad = reader.read(reply(rationale="Profit fell, which is negative for the owners."), TEXT)

    assert isinstance(good, Reading)
    assert isinstance(bad, Fault)


@given(st.text(max_size=200))
def test_no_text_makes_the_reader_raise(raw: str) -> None:
    assert isinstance(READER.read(raw, TEXT), Reading | Fault)


KEYS = st.sampled_from(["label", "rationale", "confidence", "x"])
VALUES = st.none() | st.integers() | st.text() | st.lists(st.text())


@given(st.dictionaries(KEYS, VALUES))
def test_no_object_makes_the_reader_raise(found: dict[str, object]) -> None:
    assert isinstance(READER.read(json.dumps(found), TEXT), Reading | Fault)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the data folder beside the checkout")
@pytest.mark.parametrize(
    ("file", "teacher", "most"),
    [
        ("claude_fpb_train.jsonl", "claude", 0.002),
        ("mixtral_gpt4_llama_fpb_train.jsonl", "mixtral-8x7b-instruct-v0.1", 0.005),
    ],
)
def test_real_rationales_are_hardly_ever_rejected(file: str, teacher: str, most: float) -> None:
    texts = {
        row["id"]: row["sentence"] for row in map(json.loads, lines(SHARED / "fpb" / "fpb.jsonl"))
    }
    rows = map(json.loads, lines(SHARED / "teacher_answers" / file))
    wanted = [r for r in rows if r["teacher"] == teacher and r.get("sample") != 0]

    read = [
        READER.read_object(
            {key: row[key] for key in ("label", "rationale", "confidence") if key in row},
            texts[row["fpb_id"]],
        )
        for row in wanted
    ]

    assert len(wanted) > 3000
    assert sum(isinstance(r, Fault) for r in read) <= most * len(wanted)
