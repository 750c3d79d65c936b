"""
The mean difference of a score that every text has: paired bootstrap (BCa), paired permutation.

A mean needs no text to be looked at twice: its resamples are weights times differences. Up to
`_SINGLE` texts each is a cell of its own; above, texts of nearly the same difference share one, and
what they differ by inside it enters as the normal noise that so many of them add up to.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.config.run import EvaluationConfig
from common.evaluation.comparison import Difference
from common.evaluation.counts import Counts, Floats
from common.evaluation.resampling import (
    differences_of,
    draws_of,
    fair_halves,
    permutation_p,
)

Weights = NDArray[np.generic]
_SINGLE: Final = 5_000
_CELLS: Final = 128


@dataclass(frozen=True)
class _Cells:
    """Texts alike: `values` (cells, scores) are means, `spread` the variances inside a cell."""

    counts: Counts
    values: Floats
    spread: Floats

    def mean(self, weights: Weights, scale: Weights, rng: np.random.Generator) -> Floats:
        """Means of (resamples, scores): `weights` times values; `scale`: texts that make noise."""
        moved = weights.astype(np.float64) @ self.values
        if self.spread.any():
            noise = np.sqrt(scale.astype(np.float64) @ self.spread)
            moved += rng.standard_normal(moved.shape) * noise
        means: Floats = moved / self.counts.sum()
        return means


def mean_differences(
    gaps: Floats, settings: EvaluationConfig, rng: np.random.Generator
) -> list[Difference]:
    """
    One Difference a score, from `gaps` (texts, scores): first - second, without NaN.

    Equal to scipy.stats.bootstrap(np.mean, method="BCa") and scipy.stats.permutation_test of paired
    samples, up to the random draws. Scores of the same texts share their resamples.
    """
    if gaps.shape[1] > 1 and len(gaps) <= _SINGLE:
        return _differences(gaps, _single(gaps), settings, rng)
    columns = np.split(gaps, gaps.shape[1], axis=1)
    return [_differences(one, _grouped(one[:, 0]), settings, rng)[0] for one in columns]


def _differences(
    gaps: Floats, cells: _Cells, settings: EvaluationConfig, rng: np.random.Generator
) -> list[Difference]:
    mean = gaps.mean(0)
    draws = draws_of(
        cells.counts, lambda weights: cells.mean(weights, weights, rng), settings.bootstrap, rng
    )

    def shuffled(rows: int) -> Floats:
        kept = fair_halves(cells.counts, rows, rng)
        return cells.mean(2 * kept - cells.counts, cells.counts, rng)

    p_values = permutation_p(shuffled, mean, cells.counts.size, settings.bootstrap)
    bent = _acceleration(gaps - mean)
    return differences_of(draws, mean, bent, p_values, settings.confidence_level)


def _acceleration(away: Floats) -> Floats:
    """BCa's, of a mean: leaving a text out moves it by that text's share of `away`."""
    third, second = (away**3).sum(0), (away**2).sum(0)
    flat = second <= 1e-24 * len(away)
    found: Floats = np.divide(third, 6 * second**1.5, out=np.zeros_like(third), where=~flat)
    return found


def _single(gaps: Floats) -> _Cells:
    return _Cells(np.ones(len(gaps), np.int64), gaps, np.zeros_like(gaps))


def _grouped(gaps: Floats) -> _Cells:
    values, counts = np.unique(gaps, return_counts=True)
    if len(values) <= _CELLS:
        return _Cells(counts, values[:, None], np.zeros((len(values), 1)))
    if len(gaps) <= _SINGLE:
        return _single(gaps[:, None])
    place = ((gaps - values[0]) * (_CELLS / (values[-1] - values[0]))).astype(np.int64)
    place = np.minimum(place, _CELLS - 1)
    _, place, counts = np.unique(place, return_inverse=True, return_counts=True)
    means = np.bincount(place, gaps) / counts
    spread = np.bincount(place, (gaps - means[place]) ** 2) / counts
    return _Cells(counts, means[:, None], spread[:, None])
