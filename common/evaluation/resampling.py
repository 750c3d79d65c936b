"""
Bootstrap intervals and permutation tests over counts of equal texts.

Texts that agree in everything a statistic looks at share a cell; a bootstrap resample of the
texts is a multinomial draw over the cells. Pure and seeded.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from common.config.run import EvaluationConfig
from common.evaluation.counts import Counts, Floats, metrics_from_counts
from common.fingerprint import digest
from common.records import Interval

Statistic = Callable[[NDArray[np.generic]], Floats]
_CELLS_AT_ONCE = 4_000_000


def seeded(settings: EvaluationConfig, *names: str) -> np.random.Generator:
    """A generator that depends on names, not on order: adding a system moves no other's numbers."""
    return np.random.default_rng([settings.seed, int(digest(list(names))[:12], 16)])


def bootstrap_counts(
    counts: Counts, statistic: Statistic, resamples: int, rng: np.random.Generator
) -> Floats:
    """
    The statistic of `resamples` resamples of the texts behind `counts` (any shape).

    `statistic` takes (resamples, *counts.shape) and gives (resamples, statistics).
    """
    flat = counts.ravel()
    share = flat / flat.sum()
    step = max(1, _CELLS_AT_ONCE // flat.size)
    parts = []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        draws = rng.multinomial(int(flat.sum()), share, size=rows)
        parts.append(statistic(draws.reshape(rows, *counts.shape)))
    return np.concatenate(parts)


def bca_intervals(
    counts: Counts,
    statistic: Statistic,
    resamples: int,
    level: float,
    rng: np.random.Generator,
) -> list[Interval]:
    """
    Bias-corrected and accelerated intervals of every statistic (Efron 1987).

    Equals scipy.stats.bootstrap(method="BCa") over the single texts, up to the random draws.
    A statistic that no resample changes gets an interval of no width.
    """
    draws = bootstrap_counts(counts, statistic, resamples, rng)
    return intervals_of(draws, *point_and_acceleration(counts, statistic), level)


def intervals_of(
    draws: Floats, point: Floats, acceleration: Floats, level: float
) -> list[Interval]:
    """BCa intervals from bootstrap `draws` of shape (resamples, statistics)."""
    tail = norm.ppf([(1 - level) / 2, (1 + level) / 2])
    found = []
    for column, value, a in zip(draws.T, point, acceleration, strict=True):
        below = (np.mean(column < value - 1e-12) + np.mean(column <= value + 1e-12)) / 2
        bias = norm.ppf(np.clip(below, 0.5 / len(column), 1 - 0.5 / len(column)))
        shares = norm.cdf(bias + (bias + tail) / (1 - a * (bias + tail)))
        low, high = np.quantile(column, shares)
        found.append(Interval(value=float(value), low=float(low), high=float(high), level=level))
    return found


def point_and_acceleration(counts: Counts, statistic: Statistic) -> tuple[Floats, Floats]:
    """The statistics of the texts themselves, and BCa's acceleration from the jackknife."""
    # Leaving out any text of one cell gives the same statistic: one jackknife value a cell.
    flat = counts.ravel()
    filled = np.flatnonzero(flat)
    without = np.repeat(flat[None, :], len(filled), axis=0)
    without[np.arange(len(filled)), filled] -= 1
    if flat.sum() < 2:
        without = np.repeat(flat[None, :], len(filled), axis=0)
    jackknife = statistic(without.reshape(len(filled), *counts.shape))
    times = flat[filled][:, None]
    away = (times * jackknife).sum(0) / times.sum() - jackknife
    third, second = (times * away**3).sum(0), (times * away**2).sum(0)
    acceleration = np.divide(
        third, 6 * second**1.5, out=np.zeros_like(third), where=second > 1e-300
    )
    return statistic(counts[None])[0], acceleration


def joint_counts(
    gold: NDArray[np.int8], first: NDArray[np.int8], second: NDArray[np.int8], labels: int
) -> Counts:
    """Counts over (gold, first's answer, second's answer): all that paired tests need."""
    wide = labels + 1
    cells = (gold.astype(np.int64) * wide + first) * wide + second
    return np.bincount(cells, minlength=labels * wide * wide).reshape(labels, wide, wide)


def paired_difference(joint: NDArray[np.generic]) -> Floats:
    """first - second in every metric, for joint counts of shape (..., labels, wide, wide)."""
    table = np.asarray(joint)
    return metrics_from_counts(table.sum(-1)) - metrics_from_counts(table.sum(-2))


def permutation_p_values(joint: Counts, resamples: int, rng: np.random.Generator) -> Floats:
    """
    Two-sided p of every metric's difference under random exchange of the two answers, by text.

    Swapping each text of the cells (g, a, b) and (g, b, a) with probability 1/2 leaves a
    binomial number in each. (1 + hits) / (1 + resamples): never zero (Phipson & Smyth 2010).
    """
    observed = np.abs(paired_difference(joint[None])[0])
    upper = np.triu_indices(joint.shape[1], k=1)
    both = (joint + joint.transpose(0, 2, 1))[:, upper[0], upper[1]]
    hits = np.zeros_like(observed)
    step = max(1, _CELLS_AT_ONCE // joint.size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        kept = rng.binomial(both, 0.5, size=(rows, *both.shape))
        shuffled = np.repeat(joint[None], rows, axis=0)
        shuffled[:, :, upper[0], upper[1]] = kept
        shuffled[:, :, upper[1], upper[0]] = both - kept
        hits += (np.abs(paired_difference(shuffled)) >= observed - 1e-12).sum(0)
    p_values: Floats = (1 + hits) / (1 + resamples)
    return p_values
