"""Sentences that follow from the numbers of a comparison, and can't say more than they do."""

from collections.abc import Mapping, Sequence
from typing import Literal

from common.evaluation.comparison import GroupComparison, Outcome, PairComparison
from common.records import Interval, SystemCard


def display_name(card: SystemCard) -> str:
    """The title, with "(tiny)" wherever the weights are toy sized."""
    marked = not card.tiny or "tiny" in card.title.lower()
    return card.title if marked else f"{card.title} (tiny)"


def outcome_of(pair: PairComparison, alpha: float) -> Outcome:
    """Ahead only where McNemar after Holm and the paired interval both say so."""
    gap = pair.differences["accuracy"].interval
    if corrected_p(pair) >= alpha or gap.low <= 0 <= gap.high:
        return "not_shown"
    return "first_ahead" if gap.value > 0 else "second_ahead"


def corrected_p(pair: PairComparison) -> float:
    """McNemar's p after Holm (uncorrected where the pair stands alone)."""
    return pair.mcnemar.p if pair.mcnemar.p_holm is None else pair.mcnemar.p_holm


def sentence(pair: PairComparison, names: Mapping[str, str], outcome: Outcome, alpha: float) -> str:
    """The verdict on one pair in one sentence."""
    first, second = names[pair.first], names[pair.second]
    gap = pair.differences["accuracy"].interval
    test = f"McNemar {p_value(corrected_p(pair))} after Holm"
    if outcome == "second_ahead":
        first, second, gap = second, first, reversed_interval(gap)
    if outcome != "not_shown":
        return f"{first} is ahead of {second} by {points(gap)} of accuracy, {test}."
    seen = f"{first} {signed_points(gap, pair.smallest_shown)}, {test}"
    return f"{first} against {second}: no difference shown ({seen}){_limits(pair, alpha)}."


def _limits(pair: PairComparison, alpha: float) -> str:
    gap = pair.differences["accuracy"].interval
    if corrected_p(pair) < alpha:
        return "; the test alone would show one, its interval does not leave out 0"
    if pair.smallest_shown >= 1:
        return "; they differ on too few texts for any difference to be seen"
    blind = (
        f"; under {bound_points(pair.smallest_shown, gap)} could not be seen with n = {pair.n:,}"
    )
    if gap.low <= 0 <= gap.high:
        return blind
    return f"; the interval alone leaves out 0, the test does not{blind}"


def group_sentence(pair: GroupComparison, alpha: float) -> tuple[Outcome, str]:
    """Outcome and verdict of two groups of seeds, by the bootstrap's p after Holm."""
    gap, test = pair.differences["accuracy"], pair.bootstrap
    p = test.p if test.p_holm is None else test.p_holm
    seeds = f"over seeds ({pair.seeds[0]} and {pair.seeds[1]}) and texts"
    over = f"{seeds}, bootstrap {p_value(p)} after Holm"
    first, second = pair.first, pair.second
    if p >= alpha or gap.low <= 0 <= gap.high:
        least = pair.smallest_shown if p >= alpha else None
        said = f"{first} against {second}: no difference shown ({signed_points(gap, least)} {over})"
        if least is None:
            return "not_shown", f"{said}."
        return "not_shown", f"{said}; under {bound_points(least, gap)} could not be seen."
    outcome: Outcome = "first_ahead" if gap.value > 0 else "second_ahead"
    if outcome == "second_ahead":
        first, second, gap = second, first, reversed_interval(gap)
    return outcome, f"{first} is ahead of {second} by {points(gap)} of accuracy {over}."


def headline(
    reference: str,
    accuracy: float,
    pairs: Sequence[PairComparison | GroupComparison],
    names: Mapping[str, str],
) -> str:
    """
    Where the reference stands: one sentence over its comparisons; beyond a handful they are
    counted, for a headline of ten names is read by nobody.
    """
    found: dict[str, list[str]] = {"ahead of": [], "behind": [], "not told apart from": []}
    for pair in pairs:
        other = names[pair.second if pair.first == reference else pair.first]
        found[_PLACES[standing(pair, reference)]].append(other)
    told_of = listed if len(pairs) <= _MOST_NAMED else _counted
    parts = [f"{how} {told_of(others)}" for how, others in found.items() if others]
    told = f": {'; '.join(parts)}" if parts else ""
    return f"{names[reference]} reaches {accuracy:.3f} accuracy{told}."


_MOST_NAMED = 5
_PLACES = {"ahead": "ahead of", "behind": "behind", "same": "not told apart from"}


def standing(
    pair: PairComparison | GroupComparison, reference: str
) -> Literal["ahead", "behind", "same"]:
    """Where the reference stands in one of its pairs."""
    if pair.outcome == "not_shown":
        return "same"
    ahead = "first_ahead" if pair.first == reference else "second_ahead"
    return "ahead" if pair.outcome == ahead else "behind"


def listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"; with semicolons where a word has a comma of its own."""
    comma = "; " if any("," in word for word in words) else ", "
    return " and ".join([comma.join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _counted(words: Sequence[str]) -> str:
    return "one other" if len(words) == 1 else f"{len(words)} others"


def points(gap: Interval) -> str:
    """ "3.1 points [1.2, 5.0]" of a difference of shares; never rounded to 0 ("0.04 points")."""
    value, low, high = _in_points(gap, "-")
    return f"{value} points [{low}, {high}]"


def signed_points(gap: Interval, least: float | None = None) -> str:
    """As `points`, with the sign of the difference; `least` as in `bound_points`."""
    value, low, high = _in_points(gap, "+", least)
    return f"{value} points [{low}, {high}]"


def bound_points(least: float, gap: Interval) -> str:
    """ "2.4 points", the least difference that can be shown, so that it stands above `gap`."""
    return f"{100 * least:.{_digits(gap, least)}f} points"


def _in_points(gap: Interval, sign: str, least: float | None = None) -> list[str]:
    digits = _digits(gap, least)
    numbers = [0.0 if abs(x) < _NOTHING else 100 * x for x in (gap.value, gap.low, gap.high)]
    return [f"{number:{sign}.{digits}f}".replace("-", "\u2212") for number in numbers]


def _digits(gap: Interval, least: float | None = None) -> int:
    """As few as say the same as the numbers: none is 0 but 0 itself, and the order stays."""
    numbers = [100 * x for x in (gap.value, gap.low, gap.high) if abs(x) >= _NOTHING]
    below = least is not None and abs(gap.value) < least - _NOTHING
    for digits in range(1, 7):
        size = round(abs(100 * gap.value), digits)
        told = all(round(number, digits) for number in numbers)
        if told and not (below and size >= round(100 * (least or 0), digits)):
            return digits
    return 7


_NOTHING = 1e-9  # a difference of shares that is rounding alone


def p_value(p: float) -> str:
    """ "p = 0.002", "p < 0.001"; never rounded across a level ("p = 0.0503")."""
    if p < 0.001:
        return "p < 0.001"
    for digits in (3, 4, 5, 6):
        text = f"{p:.{digits}f}"
        if all((float(text) < level) == (p < level) for level in (0.01, 0.05, 0.1)):
            return f"p = {text}"
    return f"p = {p:.9f}"


def reversed_interval(gap: Interval) -> Interval:
    """The interval of second - first."""
    return gap.model_copy(update={"value": -gap.value, "low": -gap.high, "high": -gap.low})
