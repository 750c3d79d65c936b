"""Systems of several runs that are one: the same recipe, the same answer to every text."""

from collections.abc import Sequence

from common.evaluation.comparison import Judged
from common.records import Prediction


def each_once(systems: Sequence[Judged]) -> tuple[list[Judged], list[str]]:
    """
    The systems without repetitions, and a note on each that was left out.

    A baseline without a seed is in every run of a set; a twin trained with the same seed may be in
    two. Counted twice they would be tests that nobody needs, and two seeds where there is one.
    """
    kept: dict[tuple[str, tuple[object, ...]], Judged] = {}
    left: dict[str, list[str]] = {}
    for system in systems:
        card = system.report.system
        key = (card.group or card.title, tuple(map(_said, sorted(system.predictions, key=_id))))
        first = kept.setdefault(key, system)
        if first is not system:
            left.setdefault(first.report.system.name, []).append(card.name)
    same = "the same recipe and the same answers as"
    notes = [f"{', '.join(others)}: {same} {name}, listed once." for name, others in left.items()]
    return list(kept.values()), notes


def _id(prediction: Prediction) -> str:
    return prediction.example_id


def _said(prediction: Prediction) -> tuple[object, ...]:
    # To nine digits: libraries sum in another order with another number of threads.
    chances = prediction.probabilities or {}
    return (
        prediction.example_id,
        prediction.label,
        *(round(chances[name], 9) for name in sorted(chances)),
    )
