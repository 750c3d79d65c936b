"""Whether the system under test has fallen behind another one: for somebody's CI."""

from common.errors import InputError
from common.evaluation.comparison import Comparison
from common.evaluation.grouping import group_of
from common.evaluation.verdicts import standing


def is_behind(comparison: Comparison, baseline: str) -> bool:
    """
    Whether the reference is behind `baseline` after correction.

    Where there are several seeds, its recipe against the baseline's recipe, over seeds and texts.
    A name that several runs have (RUN/tfidf) stands for each: behind any of them is behind. The
    name of a system that is listed under another's (`stands_for`) stands for that one; where that
    is the reference itself, the baseline gave the very same answers, and it is not behind.
    Raises InputError for a name that is no other system.
    """
    listed, merged = _named(comparison, baseline)
    pairs = comparison.group_pairs if comparison.groups else comparison.pairs
    own = _place(comparison, comparison.reference)
    others = {_place(comparison, name) for name in {*listed, *merged}} - {own}
    if not others and comparison.reference not in merged:
        raise InputError(
            f"--fail-if-worse: '{baseline}' is a seed of the reference's own recipe, {own}."
        )
    between = [p for p in pairs if own in (p.first, p.second) and {p.first, p.second} & others]
    return any(standing(pair, own) == "behind" for pair in between)


def stand_ins(comparison: Comparison, baseline: str) -> list[str]:
    """A sentence on each listed system that is held against instead of one named `baseline`."""
    listed, merged = _named(comparison, baseline)
    told = []
    for name, meant in merged.items():
        if name not in listed or name == comparison.reference:
            same = f"{', '.join(meant)}: the same recipe and the same answers as {name}, which"
            own = name == comparison.reference
            told.append(f"{same} is {'under test: not behind' if own else 'held against instead'}.")
    return told


def _named(comparison: Comparison, baseline: str) -> tuple[list[str], dict[str, list[str]]]:
    """Listed systems of that name, and those that stand for others of it, with their names."""
    cards = [report.system for report in comparison.systems]
    listed = [card.name for card in cards if _answers_to(card.name, baseline)]
    meant = {c.name: [n for n in c.stands_for if _answers_to(n, baseline)] for c in cards}
    merged = {name: names for name, names in meant.items() if names}
    if not merged and listed in ([], [comparison.reference]):
        raise InputError(
            f"--fail-if-worse: '{baseline}' is no other system; "
            f"there: {', '.join(card.name for card in cards)}."
        )
    return listed, merged


def _answers_to(name: str, wanted: str) -> bool:
    """RUN/tfidf answers to its whole name and to "tfidf"."""
    return name == wanted or name.rpartition("/")[2] == wanted


def _place(comparison: Comparison, system: str) -> str:
    """What the system is called among the pairs: itself, or its recipe."""
    return group_of(comparison.groups, system).name if comparison.groups else system
