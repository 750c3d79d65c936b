"""Small drawings inside the text: the forest beside the verdicts, strips in the table, signs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from common.evaluation.charts import Axis, element, marker, padded
from common.evaluation.comparison import Comparison, GroupComparison, PairComparison
from common.evaluation.grouping import group_of
from common.evaluation.verdicts import display_name, reversed_interval, signed_points, standing
from common.records import Interval


@dataclass(frozen=True)
class Lead:
    """The reference's lead over one other system (or recipe), with its verdict."""

    other: str
    colour: int
    gap: Interval
    standing: str
    verdict: str


def leads_of(comparison: Comparison) -> list[Lead]:
    """One lead a comparison of the reference: between recipes where there are several seeds."""
    place = {r.system.name: i for i, r in enumerate(comparison.systems)}
    pairs: Sequence[PairComparison | GroupComparison]
    if comparison.groups:
        own = group_of(comparison.groups, comparison.reference).name
        colours = {g.name: place[g.systems[0]] for g in comparison.groups}
        names = {g.name: g.name for g in comparison.groups}
        pairs = comparison.group_pairs
    else:
        own, colours = comparison.reference, place
        names = {r.system.name: display_name(r.system) for r in comparison.systems}
        pairs = comparison.pairs
    return [_lead(pair, own, names, colours) for pair in pairs if own in (pair.first, pair.second)]


def _lead(
    pair: PairComparison | GroupComparison,
    own: str,
    names: Mapping[str, str],
    colours: Mapping[str, int],
) -> Lead:
    difference = pair.differences["accuracy"]
    gap = difference if isinstance(difference, Interval) else difference.interval
    other = pair.second if pair.first == own else pair.first
    turned = gap if pair.first == own else reversed_interval(gap)
    return Lead(names[other], colours[other], turned, standing(pair, own), pair.verdict)


def forest(leads: Sequence[Lead]) -> Markup | None:
    """The leads in points of accuracy, with intervals."""
    if not leads:
        return None
    low, high = padded([0.0, *(v for lead in leads for v in (lead.gap.low, lead.gap.high))], 0.08)
    width, row = 340, 34
    axis = Axis(low, high, 12, width - 12)
    bottom = row * len(leads) + 6
    zero = axis.at(0)
    parts = [element("title", "Lead of the reference in points of accuracy")]
    for tick in axis.ticks(4):
        x = axis.at(tick)
        parts.append(element("line", x1=x, x2=x, y1=4, y2=bottom, class_="grid"))
        text = f"{100 * tick:+.0f}" if round(100 * tick) else "0"
        parts.append(
            element("text", text.replace("-", "\u2212"), x=x, y=bottom + 15, text_anchor="middle")
        )
    parts.append(element("line", x1=zero, x2=zero, y1=4, y2=bottom, class_="zero"))
    for i, lead in enumerate(leads):
        y = i * row + 21
        tip = f"over {lead.other}: {signed_points(lead.gap)}"
        bar = element(
            "line",
            x1=axis.at(lead.gap.low),
            x2=axis.at(lead.gap.high),
            y1=y,
            y2=y,
            class_=f"whisker wide s{lead.colour % 8}",
        )
        parts += [bar, marker(axis.at(lead.gap.value), y, lead.colour, 5, tip)]
    return element(
        "svg", *parts, viewBox=f"0 0 {width} {bottom + 22}", role="img", class_="chart forest"
    )


def strip(interval: Interval, low: float, high: float, colour: int) -> Markup:
    """An interval on the scale that all rows of the table share."""
    axis = Axis(low, high, 4, 116)
    return element(
        "svg",
        element("line", x1=4, x2=116, y1=7, y2=7, class_="grid"),
        element(
            "line",
            x1=axis.at(interval.low),
            x2=axis.at(interval.high),
            y1=7,
            y2=7,
            class_=f"whisker wide s{colour % 8}",
        ),
        marker(axis.at(interval.value), 7, colour, 4),
        viewBox="0 0 120 14",
        class_="strip",
        aria_hidden="true",
    )


def key_sign(colour: int) -> Markup:
    """A system's sign for legends and tables."""
    return element(
        "svg", marker(7, 7, colour, 5), viewBox="0 0 14 14", class_="sign", aria_hidden="true"
    )
