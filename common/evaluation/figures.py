"""The figures of the page: what each one shows, from the records of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from common.evaluation.charts import (
    Axis,
    Frame,
    drawing,
    element,
    line,
    marker,
    padded,
    whisker,
)
from common.evaluation.comparison import Comparison, PairComparison
from common.evaluation.evaluate import AGREEMENT
from common.evaluation.formats import tick_money
from common.evaluation.verdicts import display_name, reversed_interval, signed_points
from common.records import EvaluationReport, Interval

SHARE = "{:.0%}".format


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and the sentence under it."""

    title: str
    caption: str
    svg: Markup


def figures_of(comparison: Comparison) -> list[Figure]:
    """Every figure that the comparison has data for."""
    systems = comparison.systems
    found = [
        cost_figure(systems),
        agreement_figure(systems),
        reliability_figure(systems),
        coverage_figure(systems),
        *history_figures(comparison),
    ]
    return [figure for figure in found if figure is not None]


def cost_figure(systems: Sequence[EvaluationReport]) -> Figure | None:
    """Accuracy against dollars per 1,000 texts, on a log axis."""
    priced = [(i, r, r.system.usd_per_1000) for i, r in enumerate(systems)]
    known = [(i, r, usd) for i, r, usd in priced if usd]
    if len(known) < 2:
        return None
    costs = [usd for _, _, usd in known]
    spans = [v for _, r, _ in known for v in _bounds(r.metrics["accuracy"])]
    frame = Frame.of((min(costs) / 2.5, max(costs) * 2.5), padded(spans), log_x=True)
    marks = []
    for i, report, usd in known:
        accuracy = report.metrics["accuracy"]
        x = frame.x.at(usd)
        marks.append(whisker(x, frame.y.at(accuracy.low), frame.y.at(accuracy.high), i))
        marks.append(marker(x, frame.y.at(accuracy.value), i, tip=display_name(report.system)))
    svg = drawing(
        "Accuracy against cost",
        frame,
        ("US dollars per 1,000 texts", "accuracy"),
        *marks,
        x_format=tick_money,
        y_format=SHARE,
    )
    return Figure("Cost and accuracy", "Up and to the left is better. Bars are intervals.", svg)


def agreement_figure(systems: Sequence[EvaluationReport]) -> Figure | None:
    """Accuracy by the share of annotators that agreed on the gold label."""
    prefix = f"{AGREEMENT}_"
    levels = [name for name in systems[0].subsets if name.startswith(prefix)]
    if len(levels) < 2:
        return None
    spans = [v for r in systems for n in levels for v in _bounds(r.subsets[n].metrics["accuracy"])]
    frame = Frame.of((-0.5, len(levels) - 0.5), padded(spans))
    marks = []
    for place, name in enumerate(levels):
        n = systems[0].subsets[name].n
        marks.append(_below(frame, place, f"{name.removeprefix(prefix)} %", f"n = {n}"))
        for i, report in enumerate(systems):
            accuracy = report.subsets[name].metrics["accuracy"]
            x = frame.x.at(place + (i - (len(systems) - 1) / 2) * min(0.14, 0.8 / len(systems)))
            marks.append(whisker(x, frame.y.at(accuracy.low), frame.y.at(accuracy.high), i))
            marks.append(marker(x, frame.y.at(accuracy.value), i, 3.8, display_name(report.system)))
    svg = drawing(
        "Accuracy by annotator agreement",
        frame,
        ("", "accuracy"),
        *marks,
        x_format=lambda _: "",
        y_format=SHARE,
    )
    caption = "Texts by the share of annotators that agree on the gold label: less agreed, harder."
    return Figure("By annotator agreement", caption, svg)


def _below(frame: Frame, place: float, first: str, second: str) -> Markup:
    x, y = frame.x.at(place), frame.y.start
    return element(
        "g",
        element("text", first, x=x, y=y + 17, text_anchor="middle", class_="strong"),
        element("text", second, x=x, y=y + 32, text_anchor="middle"),
    )


def reliability_figure(systems: Sequence[EvaluationReport]) -> Figure | None:
    """How often a system is right against how sure it is."""
    scored = [(i, r, r.probability) for i, r in enumerate(systems) if r.probability]
    if not scored:
        return None
    lowest = min(b.low for _, _, p in scored if p for b in p.reliability)
    frame = Frame.of((lowest, 1.0), (0.0, 1.0))
    marks = [line(frame, [(lowest, lowest), (1, 1)], 0, "ideal")]
    for i, report, scores in scored:
        bins = [b for b in scores.reliability if b.n >= 10] if scores else []
        marks.append(line(frame, [(b.confidence, b.accuracy) for b in bins], i, "thin"))
        for b in bins:
            said = f"n = {b.n}, says {b.confidence:.2f}, is {b.accuracy:.2f}"
            tip = f"{display_name(report.system)}: {said}"
            marks.append(marker(frame.x.at(b.confidence), frame.y.at(b.accuracy), i, 3.6, tip))
    svg = drawing(
        "Reliability",
        frame,
        ("stated probability", "share right"),
        *marks,
        x_format=SHARE,
        y_format=SHARE,
    )
    caption = "On the dashed line a system is right as often as it says. Bins of 10 texts and more."
    return Figure("Reliability", caption, svg)


def coverage_figure(systems: Sequence[EvaluationReport]) -> Figure | None:
    """Accuracy when a system may leave out what it is unsure of."""
    scored = [(i, r.probability.coverage) for i, r in enumerate(systems) if r.probability]
    if not scored:
        return None
    low, _ = padded(p.accuracy for _, points in scored for p in points)
    frame = Frame.of((0.0, 1.0), (max(low, 0.0), 1.0))
    marks = [line(frame, [(p.coverage, p.accuracy) for p in points], i) for i, points in scored]
    svg = drawing(
        "Coverage and accuracy",
        frame,
        ("share of texts answered, surest first", "accuracy"),
        *marks,
        x_format=SHARE,
        y_format=SHARE,
    )
    caption = "What is gained when the least sure answers go to a person instead."
    return Figure("Leaving out the unsure", caption, svg)


def history_figures(comparison: Comparison) -> list[Figure]:
    """Training loss and gradient norms of every system that has a history."""
    place = {r.system.name: i for i, r in enumerate(comparison.systems)}
    histories = {n: h for n, h in comparison.context.histories.items() if n in place and h}
    captions = {
        "loss": "Total (solid), label term (dashed), rationale term (dotted), validation (points).",
        "grad_norm": "Before clipping.",
    }
    titles = {"loss": "Training loss", "grad_norm": "Gradient norm"}
    styles = {
        "loss": {"loss": "thin", "label_loss": "thin dashed", "rationale_loss": "thin dotted"},
        "grad_norm": {"grad_norm": "thin"},
    }
    found = []
    for key, title in titles.items():
        curves = {
            (name, field): _points(steps, field)
            for name, steps in histories.items()
            for field in [*styles[key], *(["eval_loss"] if key == "loss" else [])]
        }
        curves = {where: points for where, points in curves.items() if points}
        if not curves:
            continue
        every = [p for points in curves.values() for p in points]
        frame = Frame.of((0.0, max(x for x, _ in every)), (0.0, padded(y for _, y in every)[1]))
        marks: list[Markup] = []
        for (name, field), points in curves.items():
            if field == "eval_loss":
                marks += [marker(frame.x.at(x), frame.y.at(y), place[name], 3) for x, y in points]
            else:
                marks.append(line(frame, points, place[name], styles[key][field]))
        svg = drawing(title, frame, ("optimizer step", title.lower()), *marks)
        found.append(Figure(title, captions[key], svg))
    return found


def _points(
    steps: Sequence[dict[str, float | None]], field: str, most: int = 240
) -> list[tuple[float, float]]:
    found = []
    for row in steps:
        step, value = row.get("step"), row.get(field)
        if step is not None and value is not None and abs(value) < float("inf"):
            found.append((float(step), float(value)))
    return found[:: max(1, len(found) // most)]


def forest(comparison: Comparison) -> Markup | None:
    """The reference's lead over each other system in points of accuracy, with intervals."""
    pairs = [p for p in comparison.pairs if comparison.reference in (p.first, p.second)]
    if not pairs:
        return None
    place = {r.system.name: i for i, r in enumerate(comparison.systems)}
    titles = {r.system.name: display_name(r.system) for r in comparison.systems}
    gaps = [_lead(pair, comparison.reference) for pair in pairs]
    low, high = padded([0.0, *(v for _, gap in gaps for v in _bounds(gap))], 0.08)
    width, row = 340, 34
    axis = Axis(low, high, 12, width - 12)
    bottom = row * len(gaps) + 6
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
    for i, (other, gap) in enumerate(gaps):
        y = i * row + 21
        tip = f"over {titles[other]}: {signed_points(gap)}"
        bar = element(
            "line",
            x1=axis.at(gap.low),
            x2=axis.at(gap.high),
            y1=y,
            y2=y,
            class_=f"whisker wide s{place[other] % 8}",
        )
        parts += [bar, marker(axis.at(gap.value), y, place[other], 5, tip)]
    return element(
        "svg", *parts, viewBox=f"0 0 {width} {bottom + 22}", role="img", class_="chart forest"
    )


def _lead(pair: PairComparison, reference: str) -> tuple[str, Interval]:
    gap = pair.differences["accuracy"].interval
    if pair.first == reference:
        return pair.second, gap
    return pair.first, reversed_interval(gap)


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


def _bounds(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high
