"""The table of a comparison: one row a system, only the columns that somebody fills."""

from collections.abc import Callable
from dataclasses import dataclass

from common.evaluation import formats
from common.evaluation.comparison import Comparison
from common.evaluation.evaluate import AGREEMENT, parts_in_order
from common.evaluation.verdicts import display_name
from common.records import EvaluationReport, Interval, SystemCard


@dataclass(frozen=True)
class Cell:
    """
    A cell's text, its second line of less weight; `interval` where it is a metric; `best` where no
    system has a better one.
    """

    text: str
    interval: Interval | None = None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A system's cells, in the order of the columns."""

    name: str
    title: str
    role: str
    tiny: bool
    reference: bool
    cells: list[Cell]


METRIC_COLUMNS = {"accuracy": "Accuracy", "macro_f1": "Macro F1", "weighted_f1": "Weighted F1"}


def _parameters(card: SystemCard) -> str:
    """All parameters, and under them those that were trained where they are not the same."""
    every, trained = formats.count(card.parameters), formats.count(card.trainable_parameters)
    return every if trained in (formats.NOTHING, every) else f"{every}\n{trained} trained"


def _latency(card: SystemCard) -> str:
    """ "6.2 ms", and below "p95 8.8" and "p99 12.1", a line each: the table is wide."""
    if card.latency_p50_ms is None:
        return formats.NOTHING
    tails = {"p95": card.latency_p95_ms, "p99": card.latency_p99_ms}
    more = [f"{name} {_short(ms)}" for name, ms in tails.items() if ms is not None]
    return "\n".join([f"{_short(card.latency_p50_ms)} ms", *more])


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _training(card: SystemCard) -> str:
    """ "3 min 20 s", and under it "65/s", the examples a second."""
    taken = formats.duration(card.training_seconds)
    speed = card.training_texts_per_second
    return taken if speed is None else f"{taken}\n{formats.rate(speed, 1.0)}"


OTHER_COLUMNS: dict[str, Callable[[EvaluationReport], str]] = {
    "$ / 1,000": lambda r: formats.money(r.system.usd_per_1000),
    "Speed": lambda r: formats.rate(r.system.predict_texts, r.system.predict_seconds),
    "Disk": lambda r: formats.size(r.system.disk_bytes),
    "Parameters": lambda r: _parameters(r.system),
    "Tokens seen": lambda r: formats.count(r.system.tokens_seen),
    "Training": lambda r: _training(r.system),
    "Unreadable": lambda r: formats.share(r.unparseable / r.n),
    "Memory": lambda r: formats.size(r.system.peak_memory_bytes),
    "Latency p50": lambda r: _latency(r.system),
    "Lenient accuracy": lambda r: (
        f"{r.lenient.metrics['accuracy'].value:.3f}" if r.lenient else formats.NOTHING
    ),
}


def table_of(comparison: Comparison) -> tuple[list[str], list[Row]]:
    """Column titles (the system's first) and rows; the constant-answer row comes last."""
    reports = comparison.rows
    best = {name: max(r.metrics[name].value for r in comparison.systems) for name in METRIC_COLUMNS}
    titles = ["System", *METRIC_COLUMNS.values()]
    cells = [_metric_cells(r, best) for r in reports]
    for title, text in OTHER_COLUMNS.items():
        texts = [text(report) for report in reports]
        if any(t not in (formats.NOTHING, "0") for t in texts):
            titles.append(title)
            for row, t in zip(cells, texts, strict=True):
                row.append(Cell(t))
    return titles, [
        Row(
            name=report.system.name,
            title=display_name(report.system),
            role=report.system.role,
            tiny=report.system.tiny,
            reference=report.system.name == comparison.reference,
            cells=row,
        )
        for report, row in zip(reports, cells, strict=True)
    ]


def parts_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Accuracy with its interval on each part of the texts."""
    systems = comparison.rows
    names = parts_in_order({name for report in systems for name in report.subsets})
    if not names:
        return [], []
    sizes = {n: next(r.subsets[n].n for r in systems if n in r.subsets) for n in names}
    headers = ["Accuracy on", *(f"{part_title(name)}, n = {sizes[name]:,}" for name in names)]
    return headers, [
        [display_name(report.system), *(_part(report, name) for name in names)]
        for report in systems
    ]


def part_title(name: str) -> str:
    """ "agreement 75 %" for agreement_75."""
    if name.startswith(f"{AGREEMENT}_"):
        return f"{AGREEMENT} {name.removeprefix(f'{AGREEMENT}_')} %"
    return name.replace("_", " ")


def _part(report: EvaluationReport, name: str) -> str:
    part = report.subsets.get(name)
    return formats.metric(part.metrics["accuracy"]) if part else formats.NOTHING


def _metric_cells(report: EvaluationReport, best: dict[str, float]) -> list[Cell]:
    return [
        Cell(
            text=formats.metric(report.metrics[name]),
            interval=report.metrics[name],
            best=report.metrics[name].value >= best[name],
        )
        for name in METRIC_COLUMNS
    ]
