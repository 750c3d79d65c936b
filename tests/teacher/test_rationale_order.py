"""Which order of label and reasons suits a teacher is told by paired gold rows, or left open."""

import pytest
from statsmodels.stats.contingency_tables import mcnemar

from common.records import Reason, TeacherAnswer, Unanswered
from teacher.rationale_order import compare_orders

GOLD = {str(i): "positive" for i in range(40)}


def said(right: set[int], rows: int = 40) -> list[TeacherAnswer | Unanswered]:
    return [
        TeacherAnswer(example_id=str(i), teacher="t", label="positive" if i in right else "neutral")
        for i in range(rows)
    ]


def test_a_clear_difference_names_the_better_order() -> None:
    report = compare_orders(
        {"before_label": said(set(range(20))), "after_label": said(set(range(35)))}, GOLD
    )

    assert (report.best, report.rows) == ("after_label", 40)
    assert report.right == {"before_label": 20, "after_label": 35}
    assert report.p_value == pytest.approx(mcnemar([[20, 15], [0, 5]], exact=True).pvalue)
    assert "rationale: after_label is better here" in report.sentence


def test_a_small_difference_decides_nothing() -> None:
    report = compare_orders(
        {"none": said(set(range(30))), "after_label": said(set(range(31)))}, GOLD
    )

    assert "no order is clearly better" in report.sentence


def test_an_unusable_answer_is_wrong_and_rows_missing_in_one_order_do_not_count() -> None:
    failed: list[TeacherAnswer | Unanswered] = [
        Unanswered(example_id="0", teacher="t", reason=Reason.NOT_JSON),
        *said({1}, 2)[1:],
    ]

    report = compare_orders({"none": failed, "after_label": said({0, 1})}, GOLD)

    assert (report.rows, report.right) == (2, {"none": 1, "after_label": 2})
