"""Whether a teacher does better with its reasons before the label, after it, or without."""

from collections.abc import Mapping, Sequence

from common.config.teacher import RationaleOrder
from common.records import Record, TeacherAnswer, Unanswered

AnyAnswer = TeacherAnswer | Unanswered
DECIDED = 0.05


class OrderReport(Record):
    """
    The gold probe asked in several orders. `right` counts per order, of `rows` each.

    `p_value`: exact McNemar test (Dietterich 1998) between the best and the second best, on the
    rows where they differ. `sentence` says what follows, and that too few rows decide nothing.
    """

    rows: int
    right: dict[str, int]
    best: str
    p_value: float
    sentence: str


def compare_orders(
    answers: Mapping[RationaleOrder, Sequence[AnyAnswer]], gold: Mapping[str, str]
) -> OrderReport:
    """
    Judge the same gold rows asked in each order; an unusable answer is wrong.

    Only the first sample of a row counts, so that each order has one answer a row.
    """
    hits = {order: _hits(said, gold) for order, said in answers.items()}
    rows = set.intersection(*(set(hit) for hit in hits.values()))
    right = {order: sum(hit[row] for row in rows) for order, hit in hits.items()}
    ranked = sorted(right, key=lambda order: -right[order])
    best, second = ranked[0], ranked[min(1, len(ranked) - 1)]
    only_best = sum(hits[best][row] and not hits[second][row] for row in rows)
    only_second = sum(hits[second][row] and not hits[best][row] for row in rows)
    p_value = _mcnemar(only_best, only_second)
    figures = ", ".join(f"{order} {right[order]}" for order in ranked)
    verdict = (
        f"rationale: {best} is better here (p = {p_value:.3f})"
        if p_value < DECIDED
        else f"no order is clearly better (p = {p_value:.2f}); ask more rows to decide"
    )
    return OrderReport(
        rows=len(rows),
        right={str(order): count for order, count in right.items()},
        best=best,
        p_value=p_value,
        sentence=f"of {len(rows)} gold rows right: {figures}; {verdict}.",
    )


def _hits(answers: Sequence[AnyAnswer], gold: Mapping[str, str]) -> dict[str, bool]:
    return {
        answer.example_id: isinstance(answer, TeacherAnswer)
        and answer.label == gold[answer.example_id]
        for answer in answers
        if answer.sample == 0 and answer.example_id in gold
    }


def _mcnemar(first: int, second: int) -> float:
    """Two-sided exact probability of so uneven a split of the rows that differ."""
    from scipy.stats import binomtest

    differing = first + second
    return float(binomtest(first, differing).pvalue) if differing else 1.0
