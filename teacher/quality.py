"""Whether a teacher is worth its price, and which of its answers are fit to train on."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import Field

from common.config.teacher import LabellingConfig
from common.errors import TeacherUnfit
from common.records import Reason, Record, TeacherAnswer, Unanswered
from common.task import TaskDefinition

AnyAnswer = TeacherAnswer | Unanswered
ONE_SIDED_SHARE = 0.9
_LEAST_ROWS_FOR_SIDES = 10


class SmokeReport(Record):
    """
    The first rows judged: how many could be read, what they say and cost.

    `parse_rate` leaves out rows that a file of recorded answers does not have. `usd_per_row` is
    what a row costs when nothing is cached. `warnings` are sentences for people.
    """

    teacher: str
    rows: int
    answered: int
    parse_rate: float
    reasons: dict[str, int] = Field(default_factory=dict)
    labels: dict[str, int] = Field(default_factory=dict)
    usd_per_row: float = 0.0
    output_tokens_per_row: float = 0.0
    warnings: list[str] = Field(default_factory=list)


class ProbeReport(Record):
    """
    A teacher against gold labels: `right` of `rows`, with a 95 % interval (Wilson 1927).

    With several samples a row's label is the most frequent one; an unusable answer is wrong.
    `confusion` maps gold label to what the teacher said and how often.
    """

    teacher: str
    rows: int
    right: int
    accuracy: float
    low: float
    high: float
    majority_share: float
    confusion: dict[str, dict[str, int]] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)


def judge_smoke(
    answers: Sequence[AnyAnswer], labelling: LabellingConfig, task: TaskDefinition
) -> SmokeReport:
    """Judge the first answers. Raises TeacherUnfit when too few of them can be used."""
    recorded = [a for a in answers if not _is_missing(a)]
    good = [a for a in recorded if isinstance(a, TeacherAnswer)]
    report = SmokeReport(
        teacher=answers[0].teacher if answers else "",
        rows=len(recorded),
        answered=len(good),
        parse_rate=len(good) / len(recorded) if recorded else 0.0,
        reasons=dict(Counter(a.reason.value for a in recorded if isinstance(a, Unanswered))),
        labels={name: sum(a.label == name for a in good) for name in task.label_names},
        usd_per_row=_mean([a.usage.usd for a in recorded]),
        output_tokens_per_row=_mean([a.usage.output_tokens for a in recorded]),
    )
    if answers and not recorded:
        raise TeacherUnfit(
            f"teacher '{answers[0].teacher}' has no recorded answer for any of the first "
            f"{len(answers)} rows; check teacher.id_column and teacher.only against the data's ids."
        )
    if recorded and report.parse_rate < labelling.min_parse_rate:
        raise TeacherUnfit(_unreadable(report, recorded, labelling.min_parse_rate))
    return report.model_copy(update={"warnings": _one_sided(report.labels, "the smoke run")})


def judge_probe(
    answers: Sequence[AnyAnswer], gold: Mapping[str, str], labelling: LabellingConfig
) -> ProbeReport:
    """
    Judge answers to texts of the training part whose labels (`gold`, by example id) are known.

    Raises TeacherUnfit below labelling.probe.min_accuracy.
    """
    said = _votes([a for a in answers if not _is_missing(a) and a.example_id in gold])
    report = _probe_report(answers, said, gold)
    least = labelling.probe.min_accuracy
    if report.rows and report.accuracy < least:
        favourite, count = Counter(said.values()).most_common(1)[0]
        raise TeacherUnfit(
            f"teacher '{report.teacher}' agrees with the gold labels on {report.right} of "
            f"{report.rows} probe rows ({report.accuracy:.2f}, at least {least:.2f} is wanted) and "
            f"says '{favourite}' to {count} of them; ask another model, change the prompt or lower "
            "labelling.probe.min_accuracy."
        )
    return report


def _is_missing(answer: AnyAnswer) -> bool:
    return isinstance(answer, Unanswered) and answer.reason is Reason.NOT_RECORDED


def _votes(answers: Sequence[AnyAnswer]) -> dict[str, str | None]:
    """The most frequent label of each example; the earliest sample's where several tie."""
    votes: dict[str, Counter[str | None]] = {}
    for answer in sorted(answers, key=lambda a: a.sample):
        label = answer.label if isinstance(answer, TeacherAnswer) else None
        votes.setdefault(answer.example_id, Counter())[label] += 1
    return {example_id: counts.most_common(1)[0][0] for example_id, counts in votes.items()}


def _probe_report(
    answers: Sequence[AnyAnswer], said: Mapping[str, str | None], gold: Mapping[str, str]
) -> ProbeReport:
    confusion: dict[str, Counter[str]] = {}
    for example_id, label in said.items():
        confusion.setdefault(gold[example_id], Counter())[label or "unanswered"] += 1
    right = sum(gold[example_id] == label for example_id, label in said.items())
    low, high = wilson_interval(right, len(said))
    seen = Counter(gold[example_id] for example_id in said)
    labels = Counter(label for label in said.values() if label)
    majority = max(seen.values(), default=0)
    warnings = _one_sided(labels, "the gold probe")
    if said and right <= majority:
        warnings.append(
            f"{right} of {len(said)} probe rows are right, no more than one label for all "
            f"would give ({majority})."
        )
    return ProbeReport(
        teacher=answers[0].teacher if answers else "",
        rows=len(said),
        right=right,
        accuracy=right / len(said) if said else 0.0,
        low=low,
        high=high,
        majority_share=majority / max(1, len(said)),
        confusion={name: dict(counts) for name, counts in confusion.items()},
        warnings=warnings,
    )


def wilson_interval(right: int, rows: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927); (0, 1) without rows."""
    if not rows:
        return 0.0, 1.0
    share = right / rows
    centre = share + z * z / (2 * rows)
    spread = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    whole = 1 + z * z / rows
    return max(0.0, (centre - spread) / whole), min(1.0, (centre + spread) / whole)


def _one_sided(labels: Mapping[str, int], where: str) -> list[str]:
    rows = sum(labels.values())
    name, count = max(labels.items(), key=lambda item: item[1], default=("", 0))
    if rows < _LEAST_ROWS_FOR_SIDES or count <= ONE_SIDED_SHARE * rows:
        return []
    return [
        f"{count} of {rows} answers of {where} are '{name}': unless the texts are that one-sided, "
        "the teacher is not reading them."
    ]


def _unreadable(report: SmokeReport, answers: Sequence[AnyAnswer], least: float) -> str:
    example = next(a for a in answers if isinstance(a, Unanswered))
    reasons = ", ".join(f"{name} {count}" for name, count in sorted(report.reasons.items()))
    return (
        f"teacher '{report.teacher}' gave a usable answer to {report.answered} of the first "
        f"{report.rows} rows ({report.parse_rate:.2f}, at least {least:.2f} is wanted; {reasons}; "
        f"the first: {example.detail}); change the prompt or the model, or lower "
        "labelling.min_parse_rate."
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
