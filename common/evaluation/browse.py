"""The texts of a comparison with everybody's answers, for browsing."""

from collections.abc import Sequence

from common.evaluation.comparison import BrowseAnswer, BrowseText, ReportContext
from common.evaluation.evaluate import AGREEMENT
from common.records import Example, Prediction, TeacherAnswer
from common.task import TaskDefinition


def browse_texts(
    gold: Sequence[Example],
    joined: Sequence[Sequence[Prediction]],
    task: TaskDefinition,
    most: int,
    context: ReportContext,
) -> list[BrowseText]:
    """At most `most` texts; where there are more, those that systems disagree on come first."""
    rows = list(range(len(gold)))
    if len(gold) > most:
        agreed_last = sorted(rows, key=lambda i: len({p[i].label for p in joined}) < 2)
        rows = sorted(agreed_last[:most])
    return [
        BrowseText(
            id=gold[i].id,
            text=gold[i].text,
            gold=gold[i].label or "",
            agreement=gold[i].meta.get(AGREEMENT),
            answers=[_answer(predictions[i], task) for predictions in joined],
            teacher=_teacher_answer(context.teacher_answers.get(gold[i].id), task),
        )
        for i in rows
    ]


def _answer(prediction: Prediction, task: TaskDefinition) -> BrowseAnswer:
    return BrowseAnswer(
        label=prediction.label,
        probabilities=_in_order(prediction.probabilities, task),
        rationale=prediction.rationale,
        raw=prediction.raw if prediction.label is None else None,
    )


def _teacher_answer(answer: TeacherAnswer | None, task: TaskDefinition) -> BrowseAnswer | None:
    if answer is None:
        return None
    return BrowseAnswer(
        label=answer.label,
        probabilities=_in_order(answer.probabilities, task),
        rationale=answer.rationale,
    )


def _in_order(given: dict[str, float] | None, task: TaskDefinition) -> list[float] | None:
    return [round(given.get(name, 0.0), 4) for name in task.label_names] if given else None
