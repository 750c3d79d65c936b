"""
Classification metrics from counts of (gold label, answered label).

All of them depend on the texts through these counts alone, so a resample of a million texts is
one multinomial draw over a few cells, and 10,000 resamples take a fraction of a second.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

Codes = NDArray[np.int8]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

METRICS = (
    "accuracy",
    "macro_f1",
    "weighted_f1",
    "macro_precision",
    "macro_recall",
    "weighted_precision",
    "weighted_recall",
    "mcc",
    "unparseable",
)


def label_codes(labels: Sequence[str | None], names: Sequence[str]) -> Codes:
    """Position of each label in `names`; len(names) for None. Raises InputError for a stranger."""
    position: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    position[None] = len(names)
    try:
        return np.fromiter((position[label] for label in labels), np.int8, len(labels))
    except KeyError as error:
        raise InputError(
            f"label {error.args[0]!r} is not of this task, which knows {', '.join(names)}; "
            "map it with data.label_map or read the answer as unparseable (None)."
        ) from error


def confusion_counts(gold: Codes, answers: Codes, labels: int) -> Counts:
    """Counts of shape (labels, labels + 1); the last column holds unparseable answers."""
    cells = gold.astype(np.int64) * (labels + 1) + answers
    return np.bincount(cells, minlength=labels * (labels + 1)).reshape(labels, labels + 1)


def metrics_from_counts(counts: NDArray[np.generic]) -> Floats:
    """
    All METRICS of confusion counts of shape (..., labels, labels + 1), as (..., len(METRICS)).

    As scikit-learn's with zero_division=0. Macro means go over the labels that stand in the gold
    (equal for every system on the same texts); unparseable answers are wrong, and no label of
    their own; in MCC they are one more answer (Gorodkin 2004, eq. 8).
    """
    table = np.asarray(counts, dtype=np.float64)
    right, support, answered = _margins(table)
    n = support.sum(-1)
    precision, recall = _ratio(right, answered), _ratio(right, support)
    f1 = _ratio(2 * right, answered + support)
    share = support / n[..., None]
    gold_labels = np.maximum((support > 0).sum(-1), 1)
    columns = [
        right.sum(-1) / n,
        np.where(support > 0, f1, 0).sum(-1) / gold_labels,
        (share * f1).sum(-1),
        np.where(support > 0, precision, 0).sum(-1) / gold_labels,
        recall.sum(-1) / gold_labels,
        (share * precision).sum(-1),
        (share * recall).sum(-1),
        _mcc(table, right.sum(-1), support, n),
        table[..., -1].sum(-1) / n,
    ]
    return np.stack(columns, axis=-1)


BY_LABEL = ("precision", "recall", "f1")


def per_class_from_counts(counts: NDArray[np.generic]) -> tuple[Floats, Floats, Floats, Counts]:
    """Precision, recall, F1 and support of every label, each of shape (..., labels)."""
    right, support, answered = _margins(np.asarray(counts, dtype=np.float64))
    f1 = _ratio(2 * right, answered + support)
    return _ratio(right, answered), _ratio(right, support), f1, support.astype(np.int64)


def every_metric(counts: NDArray[np.generic]) -> Floats:
    """All METRICS, then precision of every label, recall of every label, F1 of every label."""
    return np.concatenate([metrics_from_counts(counts), *per_class_from_counts(counts)[:3]], -1)


def _margins(table: Floats) -> tuple[Floats, Floats, Floats]:
    labels = table.shape[-2]
    right = np.diagonal(table, axis1=-2, axis2=-1)
    return right, table.sum(-1), table[..., :labels].sum(-2)


def _mcc(table: Floats, right: Floats, support: Floats, n: Floats) -> Floats:
    answered = table.sum(-2)
    labels = support.shape[-1]
    covariance = right * n - (support * answered[..., :labels]).sum(-1)
    spread = (n**2 - (answered**2).sum(-1)) * (n**2 - (support**2).sum(-1))
    return _ratio(covariance, np.sqrt(spread))


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
