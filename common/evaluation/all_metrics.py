"""The tables behind the table: every metric of every system, and each label by itself."""

from common.evaluation import formats
from common.evaluation.comparison import Comparison
from common.evaluation.verdicts import display_name
from common.records import EvaluationReport, Interval

MORE_METRICS = {
    "mcc": "MCC",
    "macro_precision": "Macro precision",
    "macro_recall": "Macro recall",
    "weighted_precision": "Weighted precision",
    "weighted_recall": "Weighted recall",
}
PROBABILITIES = {"log_loss": "Log loss", "brier": "Brier", "ece": "Calibration error (ECE)"}

Table = tuple[list[str], list[list[str]]]


def metrics_table(comparison: Comparison) -> Table:
    """What the first table leaves out; the constant answer's row comes last."""
    reports = comparison.rows
    scored = any(report.probability for report in reports)
    headers = ["System", *MORE_METRICS.values(), "Unreadable"]
    headers += PROBABILITIES.values() if scored else []
    return headers, [_row(report, scored) for report in reports]


def _row(report: EvaluationReport, scored: bool) -> list[str]:
    cells = [formats.metric(report.metrics[name]) for name in MORE_METRICS]
    cells.append(formats.share(report.unparseable / report.n))
    if scored:
        given = report.probability
        found: list[Interval | None] = [getattr(given, name, None) for name in PROBABILITIES]
        cells += [formats.metric(i) if i is not None else formats.NOTHING for i in found]
    return [display_name(report.system), *cells]


def labels_table(comparison: Comparison) -> Table:
    """Precision, recall and F1 of each label: "0.82 / 0.79 / 0.80"."""
    support = comparison.systems[0].per_class
    headers = ["Precision / recall / F1"]
    headers += [f"{name}, n = {support[name].support:,}" for name in comparison.labels]
    rows = []
    for report in comparison.rows:
        scores = [report.per_class[name] for name in comparison.labels]
        cells = [f"{s.precision:.2f} / {s.recall:.2f} / {s.f1:.2f}" for s in scores]
        rows.append([display_name(report.system), *cells])
    return headers, rows
