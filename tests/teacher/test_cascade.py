"""Who is asked next, and when an answer is sure."""

import pytest

from common.config.teacher import Aggregation
from common.records import Example, Reason, TeacherAnswer, Unanswered
from teacher.cascade import rows_for_next
from teacher.votes import AnyAnswer, unsure

ROWS = [Example(id=name, text=f"Text {name}.") for name in "wxyz"]
CASCADE = Aggregation(kind="cascade", sure_above=0.9)


def say(
    example: str,
    teacher: str = "cheap",
    label: str = "wet",
    sample: int = 0,
    confidence: float | None = None,
    odds: dict[str, float] | None = None,
) -> TeacherAnswer:
    return TeacherAnswer(
        example_id=example,
        teacher=teacher,
        sample=sample,
        label=label,
        confidence=confidence,
        probabilities=odds,
    )


def silent(example: str, teacher: str = "cheap", sample: int = 0) -> Unanswered:
    return Unanswered(example_id=example, teacher=teacher, sample=sample, reason=Reason.REFUSED)


@pytest.mark.parametrize(
    ("answers", "doubt"),
    [
        ([], True),
        ([silent("x")], True),
        ([say("x")], True),  # nothing speaks for it but itself
        ([say("x", confidence=0.9)], False),  # the threshold itself is sure
        ([say("x", confidence=0.89)], True),
        ([say("x", odds={"wet": 0.95, "dry": 0.05})], False),
        ([say("x", odds={"wet": 0.6, "dry": 0.4}, confidence=0.99)], True),  # logprobs win
        ([say("x", odds={"dry": 1.0})], True),  # the label is not even among them
        ([say("x"), say("x", sample=1)], False),
        ([say("x"), say("x", label="dry", sample=1), say("x", sample=2)], True),
        ([say("x"), silent("x", sample=1), say("x", sample=2)], True),
        ([say("x", confidence=0.85), say("x", sample=1, confidence=0.97)], False),  # mean 0.91
        ([say("x", confidence=0.7), say("x", sample=1, confidence=0.97)], True),
    ],
)
def test_doubt_comes_from_disagreement_low_probability_or_silence(
    answers: list[AnyAnswer], doubt: bool
) -> None:
    assert unsure(answers, 0.9) is doubt


def test_the_first_teacher_is_asked_everything() -> None:
    assert rows_for_next(ROWS, [], CASCADE) == ROWS


def test_the_next_teacher_is_asked_only_where_the_last_is_unsure() -> None:
    cheap: list[AnyAnswer] = [
        say("w", confidence=0.95),
        say("x", confidence=0.5),
        silent("y"),
        say("z", confidence=0.99),
    ]

    assert [row.id for row in rows_for_next(ROWS, cheap, CASCADE)] == ["x", "y"]


def test_a_third_teacher_is_asked_where_the_second_was_asked_and_is_unsure_too() -> None:
    answers: list[AnyAnswer] = [
        *(say(name, confidence=0.95 if name == "w" else 0.5) for name in "wxyz"),
        say("x", "middle", confidence=0.95),
        say("y", "middle", confidence=0.6),
        silent("z", "middle"),
    ]

    assert [row.id for row in rows_for_next(ROWS, answers, CASCADE)] == ["y", "z"]


@pytest.mark.parametrize("kind", ["single", "vote", "weighted", "dawid_skene"])
def test_every_other_kind_asks_everybody_everything(kind: str) -> None:
    aggregation = Aggregation.model_validate({"kind": kind})

    assert rows_for_next(ROWS, [say("w", confidence=1.0)], aggregation) == ROWS
