"""Sentences under the table: the teacher beside its students, and where speed was measured."""

from collections.abc import Iterator, Mapping
from typing import Any

from common.evaluation import formats
from common.evaluation.comparison import Comparison
from common.records import Interval

WITHOUT_ENCODER = (
    "Sentence similarity and BERTScore were not computed: they need an encoder "
    "(evaluation.encoder) and the teacher's rationale of the same text."
)


def teacher_remarks(comparison: Comparison) -> list[str]:
    """
    How often each teacher agrees with gold on the training part, and what it costs.

    From `context.teacher["teachers"]`: `teacher`, `accuracy`, `judged`, `answers`, `usd`.
    """
    judged = any(report.system.role == "teacher" for report in comparison.systems)
    return list(_teachers(comparison.context.teacher, judged))


def _teachers(summary: Mapping[str, Any], judged: bool) -> Iterator[str]:
    for facts in summary.get("teachers") or []:
        agrees = ""
        if facts.get("accuracy"):
            accuracy = Interval.model_validate(facts["accuracy"])
            agrees = (
                f" agrees with gold on {formats.metric(accuracy)} of "
                f"{facts['judged']:,} training texts"
            )
        usd, answers = facts.get("usd"), facts.get("answers")
        price = f"{formats.money(1000 * usd / answers)} per 1,000 texts" if usd and answers else ""
        said = "" if judged else " It was not asked about the texts judged here."
        yield f"Teacher {facts['teacher']}{agrees}; {price or 'its price is not recorded'}.{said}"


def measured_on(comparison: Comparison) -> str | None:
    """On what hardware speed was measured, and how; None where it was not."""
    cards = [r.system for r in comparison.systems if r.system.hardware]
    if not cards:
        return None
    places = list(dict.fromkeys(card.hardware or "" for card in cards))
    counted = [card.latency_texts for card in cards if card.latency_texts]
    single = f", latency that of {_range(counted)} single texts" if counted else ""
    memory = (
        "; memory is the peak of the training" if any(c.peak_memory_bytes for c in cards) else ""
    )
    return (
        f"Measured on {'; '.join(places)}: speed in batches, labels only, model loaded"
        f"{single}{memory}."
    )


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"
