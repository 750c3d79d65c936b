"""What a system's probabilities are worth: log loss, Brier score, calibration, coverage."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common.errors import InputError
from common.evaluation.counts import Codes, Floats
from common.evaluation.resampling import bca_intervals
from common.records import (
    CoveragePoint,
    Interval,
    Prediction,
    ProbabilityScores,
    ReliabilityBin,
)

_SMALLEST = float(np.finfo(np.float64).eps)


def probability_matrix(predictions: Sequence[Prediction], names: Sequence[str]) -> Floats:
    """
    Probabilities of shape (texts, labels), NaN rows where a prediction has none.

    Raises InputError for unknown labels and for rows that do not sum to 1 (within 0.02).
    """
    rows = np.full((len(predictions), len(names)), np.nan)
    for row, prediction in zip(rows, predictions, strict=True):
        if prediction.probabilities is not None:
            strangers = prediction.probabilities.keys() - set(names)
            row[:] = [prediction.probabilities.get(name, 0.0) for name in names]
            if strangers or not (abs(row.sum() - 1) <= 0.02 and row.min() >= 0):  # NaN too
                raise InputError(
                    f"probabilities of '{prediction.example_id}' are {prediction.probabilities}: "
                    f"expected shares over {', '.join(names)} that sum to 1."
                )
            row /= row.sum()
    return rows


def log_losses(gold: Codes, probabilities: Floats) -> Floats:
    """-ln of the probability given to the gold label, by text; clipped as scikit-learn does."""
    given = probabilities[np.arange(len(gold)), gold]
    losses: Floats = -np.log(np.clip(given, _SMALLEST, 1))
    return losses


def brier_scores(gold: Codes, probabilities: Floats) -> Floats:
    """Squared distance of the probabilities from the gold label, summed over labels (0 to 2)."""
    # |p - e_g|^2 = |p|^2 - 2 p_g + 1
    given = probabilities[np.arange(len(gold)), gold]
    scores: Floats = np.maximum((probabilities**2).sum(1) - 2 * given + 1, 0)
    return scores


def probability_scores(
    gold: Codes,
    probabilities: Floats,
    *,
    bins: int,
    resamples: int,
    level: float,
    rng: np.random.Generator,
) -> ProbabilityScores | None:
    """The scores over the texts that have probabilities; None where no text has."""
    having = ~np.isnan(probabilities[:, 0])
    if not having.any():
        return None
    gold, probabilities = gold[having], probabilities[having]
    sure = probabilities.max(1)
    right = probabilities.argmax(1) == gold
    reliability = _reliability(sure, right, bins)
    return ProbabilityScores(
        n=len(gold),
        log_loss=mean_interval(log_losses(gold, probabilities), level),
        brier=mean_interval(brier_scores(gold, probabilities), level),
        ece=_ece(reliability, resamples, level, rng),
        reliability=reliability,
        coverage=_coverage(sure, right),
    )


def mean_interval(values: Floats, level: float) -> Interval:
    """Mean with Student's t interval; of no width for a single value."""
    mean = float(values.mean())
    error = float(stats.sem(values)) if len(values) > 1 else 0.0
    reach = float(stats.t.ppf((1 + level) / 2, max(len(values) - 1, 1))) * error
    return Interval(value=mean, low=mean - reach, high=mean + reach, level=level)


def bin_of(sure: Floats, bins: int) -> NDArray[np.int64]:
    """Which of the equal bins (low, high] each probability lies in; 0 lies in the first."""
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.digitize(sure, edges, right=True) - 1, 0, bins - 1)


def _reliability(sure: Floats, right: np.ndarray, bins: int) -> list[ReliabilityBin]:
    edges = np.linspace(0, 1, bins + 1)
    place = bin_of(sure, bins)
    return [
        ReliabilityBin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            n=int(inside.sum()),
            confidence=float(sure[inside].mean()),
            accuracy=float(right[inside].mean()),
        )
        for i in range(bins)
        if (inside := place == i).any()
    ]


def _ece(
    reliability: list[ReliabilityBin], resamples: int, level: float, rng: np.random.Generator
) -> Interval:
    """
    Expected calibration error (Naeini et al. 2015) over equal-width bins, with a BCa interval.

    Inside a bin the mean confidence is held fixed over resamples: it moves by far less than the
    share of right answers does.
    """
    confidence = np.array([b.confidence for b in reliability])
    right = np.array([round(b.accuracy * b.n) for b in reliability])
    n = np.array([b.n for b in reliability])

    def error(counts: np.ndarray) -> Floats:
        hit, size = counts[..., 0], counts.sum(-1)
        gap = np.abs(hit - confidence * size).sum(-1)
        return np.asarray(gap / size.sum(-1))[..., None]

    counts = np.stack([right, n - right], axis=-1)
    return bca_intervals(counts, error, resamples, level, rng)[0]


def _coverage(sure: Floats, right: np.ndarray, points: int = 20) -> list[CoveragePoint]:
    """Accuracy on the surest 5 %, 10 % … 100 %; equally sure texts enter together, as a mean."""
    order = np.argsort(-sure, kind="stable")
    level, start, size = np.unique(-sure[order], return_index=True, return_counts=True)
    group = np.repeat(np.arange(len(level)), size)
    fair = (np.add.reduceat(right[order].astype(float), start) / size)[group]
    hits = np.cumsum(fair)
    found = []
    for step in range(1, points + 1):
        kept = max(1, round(len(sure) * step / points))
        found.append(
            CoveragePoint(coverage=kept / len(sure), accuracy=float(hits[kept - 1] / kept))
        )
    return found
