"""Whether the system under test has fallen behind another one: for somebody's CI."""

from common.errors import InputError
from common.evaluation.comparison import Comparison
from common.evaluation.grouping import group_of
from common.evaluation.verdicts import standing


def is_behind(comparison: Comparison, baseline: str) -> bool:
    """
    Whether the reference is behind `baseline` after correction.

    Where there are several seeds, its recipe against the baseline's recipe, over seeds and texts.
    A name that several runs have (RUN/tfidf) stands for each: behind any of them is behind.
    Raises InputError for a name that is no other system.
    """
    wanted = _named(comparison, baseline)
    pairs = comparison.group_pairs if comparison.groups else comparison.pairs
    own = _place(comparison, comparison.reference)
    others = {_place(comparison, name) for name in wanted} - {own}
    if not others:
        raise InputError(
            f"--fail-if-worse: '{baseline}' is a seed of the reference's own recipe, {own}."
        )
    between = [p for p in pairs if own in (p.first, p.second) and {p.first, p.second} & others]
    return any(standing(pair, own) == "behind" for pair in between)


def _named(comparison: Comparison, baseline: str) -> list[str]:
    names = [report.system.name for report in comparison.systems]
    found = [n for n in names if n == baseline or n.rpartition("/")[2] == baseline]
    if not found or found == [comparison.reference]:
        raise InputError(
            f"--fail-if-worse: '{baseline}' is no other system; there: {', '.join(names)}."
        )
    return found


def _place(comparison: Comparison, system: str) -> str:
    """What the system is called among the pairs: itself, or its recipe."""
    return group_of(comparison.groups, system).name if comparison.groups else system
