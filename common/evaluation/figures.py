"""The figures of the page: what each one shows, from the records of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from common.evaluation.charts import (
    Frame,
    drawing,
    element,
    line,
    marker,
    padded,
    whisker,
)
from common.evaluation.comparison import Comparison, Curve
from common.evaluation.evaluate import AGREEMENT, parts_in_order
from common.evaluation.formats import tick_money
from common.evaluation.verdicts import display_name
from common.records import EvaluationReport, Interval, SystemCard


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"  # 22.5 is no 22


SHARE = _percent


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
    """Accuracy against dollars per 1,000 texts (seconds, where no prices are known), log axis."""
    priced = [(i, r, r.system.usd_per_1000) for i, r in enumerate(systems)]
    known = [(i, r, usd) for i, r, usd in priced if usd]
    title, axis, form = "Cost and accuracy", "US dollars per 1,000 texts", tick_money
    if len(known) < 2:
        known = [(i, r, cost) for i, r in enumerate(systems) if (cost := _seconds(r.system))]
        title, axis, form = "Time and accuracy", "seconds per 1,000 texts", "{:,g}".format
    if len(known) < 2:
        return None
    costs = [cost for _, _, cost in known]
    spans = [v for _, r, _ in known for v in _bounds(r.metrics["accuracy"])]
    frame = Frame.of((min(costs) / 2.5, max(costs) * 2.5), padded(spans), log_x=True)
    marks = []
    for i, report, usd in known:
        accuracy = report.metrics["accuracy"]
        x = frame.x.at(usd)
        marks.append(whisker(x, frame.y.at(accuracy.low), frame.y.at(accuracy.high), i))
        marks.append(marker(x, frame.y.at(accuracy.value), i, tip=display_name(report.system)))
    svg = drawing(
        title,
        frame,
        (axis, "accuracy"),
        *marks,
        x_format=form,
        y_format=SHARE,
    )
    told = "Up and to the left is better. Bars are intervals."
    if form is not tick_money:
        told += " Machine time: evaluation.usd_per_hour makes it dollars."
    return Figure(title, told, svg)


def _seconds(card: SystemCard) -> float | None:
    """Measured seconds per 1,000 texts, in batches."""
    if not card.predict_texts or not card.predict_seconds:
        return None
    return 1000 * card.predict_seconds / card.predict_texts


def agreement_figure(systems: Sequence[EvaluationReport]) -> Figure | None:
    """Accuracy by the share of annotators that agreed on the gold label."""
    prefix = f"{AGREEMENT}_"
    levels = [n for n in parts_in_order(systems[0].subsets) if n.startswith(prefix)]
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


CURVE_METRICS = {"accuracy": "Accuracy", "macro_f1": "Macro F1"}


def curve_figures(curve: Curve) -> list[Figure]:
    """Accuracy and macro F1 against training size, on a log axis, the baseline as a line."""
    recipes = list(dict.fromkeys(point.recipe for point in curve.points))
    return [_curve_figure(curve, recipes, *metric) for metric in CURVE_METRICS.items()]


def _curve_figure(curve: Curve, recipes: list[str], metric: str, title: str) -> Figure:
    sizes = sorted({point.training_examples for point in curve.points})
    line_at = curve.baseline_metrics.get(metric)
    spans = [v for p in curve.points for v in _bounds(p.metrics[metric])]
    spans += [line_at.value] if line_at else []
    frame = Frame.of((sizes[0] / 1.3, sizes[-1] * 1.3), padded(spans), log_x=True)
    marks: list[Markup] = []
    if line_at:
        ends = [(frame.x.low, line_at.value), (frame.x.high, line_at.value)]
        marks.append(line(frame, ends, len(recipes), "dashed"))
    for place, recipe in enumerate(recipes):
        points = [p for p in curve.points if p.recipe == recipe]
        values = [(float(p.training_examples), p.metrics[metric].value) for p in points]
        marks.append(line(frame, values, place, "thin"))
        for p in points:
            value = p.metrics[metric]
            x = frame.x.at(p.training_examples)
            tip = (
                f"{recipe}, {p.training_examples} texts, {len(p.seeds)} seed(s): {value.value:.3f}"
            )
            marks.append(whisker(x, frame.y.at(value.low), frame.y.at(value.high), place))
            marks.append(marker(x, frame.y.at(value.value), place, tip=tip))
    svg = drawing(
        f"{title} by training size",
        frame,
        ("training texts", title.lower()),
        *marks,
        x_ticks=[float(size) for size in sizes],
        x_format="{:,.0f}".format,
        y_format=SHARE,
    )
    over = f"; dashed: {curve.baseline} on all of its training texts" if curve.baseline else ""
    return Figure(
        f"{title} by training size", f"Mean over seeds, bars over seeds and texts{over}.", svg
    )


def _bounds(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high
