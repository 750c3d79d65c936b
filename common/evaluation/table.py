"""The table of a comparison: one row a system, only the columns that somebody fills."""

from collections.abc import Callable
from dataclasses import dataclass

from common.evaluation import formats
from common.evaluation.comparison import Comparison
from common.evaluation.verdicts import display_name
from common.records import EvaluationReport, Interval, SystemCard


@dataclass(frozen=True)
class Cell:
    """A cell's text; `interval` where it is a metric; `best` where no system has a better one."""

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
    """All parameters, and those that were trained where they are not the same."""
    every, trained = formats.count(card.parameters), formats.count(card.trainable_parameters)
    return every if trained in (formats.NOTHING, every) else f"{every}, {trained} trained"


def _latency(card: SystemCard) -> str:
    """ "6.2 / 8.8 / 12.1 ms"."""
    found = (card.latency_p50_ms, card.latency_p95_ms, card.latency_p99_ms)
    if all(value is None for value in found):
        return formats.NOTHING
    return " / ".join(formats.NOTHING if v is None else f"{v:.3g}" for v in found) + " ms"


OTHER_COLUMNS: dict[str, Callable[[EvaluationReport], str]] = {
    "$ / 1,000": lambda r: formats.money(r.system.usd_per_1000),
    "Speed": lambda r: formats.rate(r.system.predict_texts, r.system.predict_seconds),
    "Disk": lambda r: formats.size(r.system.disk_bytes),
    "Parameters": lambda r: _parameters(r.system),
    "Training": lambda r: formats.duration(r.system.training_seconds),
    "Unreadable": lambda r: formats.share(r.unparseable / r.n),
    "Memory": lambda r: formats.size(r.system.peak_memory_bytes),
    "Latency p50 / p95 / p99": lambda r: _latency(r.system),
    "Lenient accuracy": lambda r: (
        f"{r.lenient.metrics['accuracy'].value:.3f}" if r.lenient else formats.NOTHING
    ),
}


def table_of(comparison: Comparison) -> tuple[list[str], list[Row]]:
    """Column titles (the system's first) and rows; the constant-answer row comes last."""
    reports = [*comparison.systems, *([comparison.constant] if comparison.constant else [])]
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


def _metric_cells(report: EvaluationReport, best: dict[str, float]) -> list[Cell]:
    return [
        Cell(
            text=formats.metric(report.metrics[name]),
            interval=report.metrics[name],
            best=report.metrics[name].value >= best[name],
        )
        for name in METRIC_COLUMNS
    ]
