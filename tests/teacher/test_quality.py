"""A teacher that is not worth its price is stopped with the numbers; unfit answers are counted."""

import pytest
from statsmodels.stats.proportion import proportion_confint

from common.config.teacher import GoldProbe, LabellingConfig
from common.errors import TeacherUnfit
from common.records import Reason, TeacherAnswer, Unanswered, Usage
from common.task import load_task
from teacher.quality import judge_probe, judge_smoke, wilson_interval

TASK = load_task("sentiment")
LABELLING = LabellingConfig(min_parse_rate=0.8, probe=GoldProbe(min_accuracy=0.7))


def said(row: int, label: str, sample: int = 0, confidence: float | None = None) -> TeacherAnswer:
    return TeacherAnswer(
        example_id=str(row),
        teacher="t",
        label=label,
        sample=sample,
        confidence=confidence,
        usage=Usage(output_tokens=40, usd=0.002),
    )


def silent(row: int, reason: Reason = Reason.NOT_JSON) -> Unanswered:
    return Unanswered(example_id=str(row), teacher="t", reason=reason, detail="it is no JSON.")


def test_the_smoke_report_counts_what_was_read_and_what_it_costs() -> None:
    labels = ["positive", "neutral", "neutral", "negative"]
    answers: list[TeacherAnswer | Unanswered] = [said(r, label) for r, label in enumerate(labels)]

    report = judge_smoke([*answers, silent(4)], LABELLING, TASK)

    assert (report.rows, report.answered, report.parse_rate) == (5, 4, 0.8)
    assert report.labels == {"negative": 1, "neutral": 2, "positive": 1}
    assert report.reasons == {"not_json": 1}
    assert report.usd_per_row == pytest.approx(4 * 0.002 / 5)
    assert report.warnings == []


def test_too_many_unreadable_answers_stop_the_job_with_the_numbers() -> None:
    answers: list[TeacherAnswer | Unanswered] = [said(0, "positive"), silent(1), silent(2)]

    with pytest.raises(TeacherUnfit, match=r"to 1 of the first 3 rows \(0.33, at least 0.80"):
        judge_smoke(answers, LABELLING, TASK)


def test_one_label_for_nearly_all_texts_warns() -> None:
    answers = [said(i, "negative") for i in range(15)] + [said(15, "neutral")]

    report = judge_smoke(answers, LABELLING, TASK)

    assert "15 of 16 answers of the smoke run are 'negative'" in report.warnings[0]


def test_rows_that_no_file_has_are_no_unreadable_answers() -> None:
    missing = [silent(i, Reason.NOT_RECORDED) for i in range(10)]

    assert judge_smoke([said(99, "neutral"), *missing], LABELLING, TASK).parse_rate == 1.0
    with pytest.raises(TeacherUnfit, match="no recorded answer for any of the first 10 rows"):
        judge_smoke(missing, LABELLING, TASK)


def test_a_teacher_below_the_wanted_accuracy_is_unfit_and_the_sentence_has_the_numbers() -> None:
    gold = {str(i): "positive" if i < 6 else "neutral" for i in range(10)}

    with pytest.raises(
        TeacherUnfit, match=r"on 6 of 10 probe rows \(0.60, at least 0.70 is wanted\) .* to 10 of"
    ):
        judge_probe([said(i, "positive") for i in range(10)], gold, LABELLING)


def test_a_good_teacher_passes_with_an_interval() -> None:
    gold = {str(i): "positive" if i % 2 else "neutral" for i in range(20)}
    answers = [said(i, gold[str(i)]) for i in range(19)] + [silent(19)]

    report = judge_probe(answers, gold, LABELLING)

    assert (report.rows, report.right, report.accuracy) == (20, 19, 0.95)
    assert report.low < 0.95 < report.high
    assert report.confusion["positive"] == {"positive": 9, "unanswered": 1}


def test_several_samples_vote() -> None:
    answers = [said(0, "neutral", 0), said(0, "positive", 1), said(0, "positive", 2)]

    assert judge_probe(answers, {"0": "positive"}, LABELLING).right == 1


def test_a_teacher_no_better_than_one_label_for_all_is_warned_of() -> None:
    gold = {str(i): "neutral" if i else "positive" for i in range(20)}

    report = judge_probe([said(i, "neutral") for i in range(20)], gold, LABELLING)

    assert any("no more than one label for all" in warning for warning in report.warnings)


@pytest.mark.parametrize(("right", "rows"), [(0, 10), (7, 10), (64, 64), (500, 900)])
def test_the_interval_is_wilsons(right: int, rows: int) -> None:
    assert wilson_interval(right, rows) == pytest.approx(
        proportion_confint(right, rows, method="wilson"), abs=1e-6
    )
