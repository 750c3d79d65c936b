"""Corrections last, in order, and count as gold."""

from pathlib import Path

import pytest

from common.errors import InputError
from common.records import Example
from workers.corrections import Correction, Corrections


def said(text: str, label: str | None, kind: str = "correct", at: float = 1.0) -> Correction:
    return Correction.model_validate(
        {"text": text, "label": label, "before": None, "author": "Ada", "at": at, "kind": kind}
    )


def test_the_last_word_on_a_text_counts_whatever_its_case(tmp_path: Path) -> None:
    corrections = Corrections(tmp_path)
    corrections.add("sentiment", said("Sales rose.", "neutral"))
    corrections.add("sentiment", said("sales ROSE", "positive", at=2.0))

    examples = [
        Example(id="a", text="Sales rose!", label="negative"),
        Example(id="b", text="Other"),
    ]
    applied = list(corrections.applied("sentiment", examples))

    assert [example.label for example in applied] == ["positive", None]
    assert len(corrections.history("sentiment")) == 2


def test_a_flag_or_a_withdrawal_leaves_the_label(tmp_path: Path) -> None:
    corrections = Corrections(tmp_path)
    corrections.add("sentiment", said("Sales rose.", None, "flag"))
    corrections.add("sentiment", said("Sales fell.", "negative"))
    corrections.add("sentiment", said("Sales fell.", None, "withdraw"))

    assert corrections.fingerprint("sentiment") == ""
    assert list(corrections.export("sentiment")) == []
    assert len(corrections.latest("sentiment")) == 1


def test_a_line_cut_off_by_a_crash_costs_only_itself(tmp_path: Path) -> None:
    corrections = Corrections(tmp_path)
    corrections.add("sentiment", said("Sales rose.", "positive"))
    with (tmp_path / "sentiment.jsonl").open("a") as stream:
        stream.write('{"text": "Sal\n')
    corrections.add("sentiment", said("Sales fell.", "negative"))

    assert len(corrections.history("sentiment")) == 2


def test_the_fingerprint_changes_with_a_label_only(tmp_path: Path) -> None:
    corrections = Corrections(tmp_path)
    corrections.add("sentiment", said("Sales rose.", "positive"))
    before = corrections.fingerprint("sentiment")

    corrections.add("sentiment", said("Sales rose.", "positive", at=9.0))
    same = corrections.fingerprint("sentiment")
    corrections.add("sentiment", said("Sales rose.", "neutral"))

    assert before == same != corrections.fingerprint("sentiment")


def test_a_task_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name of no task"):
        Corrections(tmp_path).add("../x", said("a", "positive"))
