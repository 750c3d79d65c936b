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
from common.evaluation.comparison import Difference, TestResult
from common.evaluation.counts import Counts, Floats, every_metric
from common.fingerprint import digest
from common.records import Interval

Statistic = Callable[[NDArray[np.generic]], Floats]
_CELLS_AT_ONCE = 4_000_000
_EXCHANGEABLE = "under the null the two answers to a text could be exchanged"


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
    return draws_of(
        counts.ravel(), lambda draws: statistic(draws.reshape(-1, *counts.shape)), resamples, rng
    )


def draws_of(
    counts: Counts, statistic: Statistic, resamples: int, rng: np.random.Generator
) -> Floats:
    """`bootstrap_counts` of flat counts (cells,), a few resamples at a time."""
    texts = int(counts.sum())
    parts = []
    for rows in _steps(resamples, counts.size):
        if (counts == 1).all():  # a text a cell: drawing them one by one is three times as fast
            drawn = rng.integers(0, texts, (rows, texts)) + np.arange(rows)[:, None] * texts
            draws = np.bincount(drawn.ravel(), minlength=rows * texts).reshape(rows, texts)
        else:
            draws = rng.multinomial(texts, counts / texts, size=rows)
        parts.append(statistic(draws))
    return np.concatenate(parts)


def _steps(resamples: int, cells: int) -> list[int]:
    """Numbers of resamples that fit into memory together."""
    step = max(1, _CELLS_AT_ONCE // cells)
    return [min(step, resamples - start) for start in range(0, resamples, step)]


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


def differences_of(
    draws: Floats, point: Floats, acceleration: Floats, p_values: Floats, level: float
) -> list[Difference]:
    """One Difference a statistic, from its resamples (resamples, statistics) and permutations."""
    intervals = intervals_of(draws, point, acceleration, level)
    above = (draws > 0).mean(0) + (draws == 0).mean(0) / 2
    return [
        Difference(
            interval=interval,
            permutation=TestResult(name="paired permutation", p=p, assumes=_EXCHANGEABLE),
            share_above_zero=share,
        )
        for interval, p, share in zip(intervals, p_values.tolist(), above.tolist(), strict=True)
    ]


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
    """
    first - second for joint counts of shape (..., labels, wide, wide): (..., statistics).

    Every one of METRICS, then precision, recall and F1 of every label.
    """
    table = np.asarray(joint)
    return every_metric(table.sum(-1)) - every_metric(table.sum(-2))


def permutation_p_values(joint: Counts, resamples: int, rng: np.random.Generator) -> Floats:
    """
    Two-sided p of every difference of `paired_difference` under random exchange of the two
    answers, by text.

    Swapping each text of the cells (g, a, b) and (g, b, a) with probability 1/2 leaves a
    binomial number in each.
    """
    upper = np.triu_indices(joint.shape[1], k=1)
    both = (joint + joint.transpose(0, 2, 1))[:, upper[0], upper[1]]

    def shuffled(rows: int) -> Floats:
        kept = fair_halves(both, rows, rng)
        found = np.repeat(joint[None], rows, axis=0)
        found[:, :, upper[0], upper[1]] = kept
        found[:, :, upper[1], upper[0]] = both - kept
        return paired_difference(found)

    return permutation_p(shuffled, paired_difference(joint[None])[0], joint.size, resamples)


def permutation_p(
    shuffled: Callable[[int], Floats], observed: Floats, cells: int, resamples: int
) -> Floats:
    """
    Two-sided p of `observed` (statistics,) among resamples without a difference.

    `shuffled` gives that many (rows, statistics); `cells`: how much memory one takes.
    (1 + hits) / (1 + resamples): never zero (Phipson & Smyth 2010).
    """
    hits = np.zeros_like(observed)
    for rows in _steps(resamples, cells):
        hits += (np.abs(shuffled(rows)) >= np.abs(observed) - 1e-12).sum(0)
    p_values: Floats = (1 + hits) / (1 + resamples)
    return p_values


def fair_halves(counts: Counts, rows: int, rng: np.random.Generator) -> Counts:
    """How many of each cell's texts a coin leaves in place: (rows, *counts.shape)."""
    if counts.size and counts.max() <= 1:
        return rng.integers(0, 2, (rows, *counts.shape), dtype=np.int8) * counts
    return rng.binomial(counts, 0.5, size=(rows, *counts.shape))
