"""Systems of several runs that are one: the same recipe, the same answer to every text."""

from collections.abc import Sequence

from common.evaluation.comparison import Judged
from common.records import Prediction


def each_once(systems: Sequence[Judged]) -> tuple[list[Judged], list[str]]:
    """
    The systems without repetitions, and a note on each that was left out.

    A baseline without a seed is in every run of a set; a twin trained with the same seed may be in
    two. Counted twice they would be tests that nobody needs, and two seeds where there is one.
    The card of the first names the others (`stands_for`), so that they can still be asked for.
    """
    kept: dict[tuple[str, tuple[object, ...]], list[Judged]] = {}
    for system in systems:
        card = system.report.system
        key = (card.group or card.title, tuple(map(_said, sorted(system.predictions, key=_id))))
        kept.setdefault(key, []).append(system)
    listed = [_for_all(alike) for alike in kept.values()]
    same = "the same recipe and the same answers as"
    notes = [
        f"{', '.join(card.stands_for)}: {same} {card.name}, listed once."
        for card in (system.report.system for system in listed)
        if card.stands_for
    ]
    return listed, notes


def _for_all(alike: Sequence[Judged]) -> Judged:
    first, *others = alike
    if not others:
        return first
    names = {"stands_for": [other.report.system.name for other in others]}
    card = first.report.system.model_copy(update=names)
    return Judged(first.report.model_copy(update={"system": card}), first.predictions)


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
