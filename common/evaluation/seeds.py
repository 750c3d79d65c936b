"""
Several seeds of one recipe: a hierarchy of seeds and, within them, texts; never pooled.

Pooling 3 x 1,212 answers as 3,636 texts would halve the intervals by counting each text three
times. Here a resample draws seeds first and then texts, the same texts for every seed.
"""

from collections.abc import Sequence
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common.evaluation.comparison import GroupComparison, SeedGroup, TestResult
from common.evaluation.counts import METRICS, Codes, Floats, confusion_counts, metrics_from_counts
from common.records import Interval

TESTED = tuple(name for name in METRICS if name != "unparseable")
_WEIGHTS_AT_ONCE = 8_000_000


def seed_group(
    name: str,
    systems: Sequence[str],
    seeds: Sequence[int | None],
    gold: Codes,
    answers: NDArray[np.int8],
    labels: int,
    *,
    resamples: int,
    level: float,
    rng: np.random.Generator,
) -> SeedGroup:
    """Means over the seeds with intervals over seeds and texts; `answers`: (seeds, texts)."""
    points_ = seed_metrics(gold, answers, labels)
    draws = hierarchical_draws(gold, [answers], labels, resamples, rng)[0]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    mean = points_.mean(0)
    spread = points_.std(0, ddof=1) if len(points_) > 1 else np.zeros(len(METRICS))
    return SeedGroup(
        name=name,
        systems=list(systems),
        seeds=list(seeds),
        metrics={
            metric: Interval(value=mean[i], low=low[i], high=high[i], level=level)
            for i, metric in enumerate(METRICS)
        },
        spread={metric: float(spread[i]) for i, metric in enumerate(METRICS)},
    )


def seed_metrics(gold: Codes, answers: NDArray[np.int8], labels: int) -> Floats:
    """Every metric of every seed: (seeds, metrics)."""
    return metrics_from_counts(np.stack([confusion_counts(gold, a, labels) for a in answers]))


def hierarchical_draws(
    gold: Codes,
    groups: Sequence[NDArray[np.int8]],
    labels: int,
    resamples: int,
    rng: np.random.Generator,
) -> list[Floats]:
    """
    Bootstrap means over seeds of every metric, one (resamples, metrics) array a group.

    Each group's seeds are drawn anew and independently; the texts drawn are the same for all
    groups and seeds, which keeps the comparison paired by text. Drawing S seeds out of S gives
    (S - 1) / S of their variance; the draws are stretched by that (Rao & Wu 1988), so that three
    seeds do not look steadier than they are. Texts with the same gold and the same answers
    everywhere share a cell.
    """
    stacked = np.concatenate([gold[None], *groups]).T
    patterns, counts = np.unique(stacked, axis=0, return_counts=True)
    cells = _cell_indicators(patterns, labels)
    sizes = [len(g) for g in groups]
    step = max(1, _WEIGHTS_AT_ONCE // max(len(counts), cells.shape[1]))
    parts: list[list[Floats]] = [[] for _ in groups]
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        weights = rng.multinomial(len(gold), counts / counts.sum(), size=rows)
        tables = (weights.astype(np.float64) @ cells).reshape(rows, -1, labels, labels + 1)
        by_seed = metrics_from_counts(tables)
        first = 0
        for part, size in zip(parts, sizes, strict=True):
            drawn = rng.integers(first, first + size, (rows, size))
            centre = by_seed[:, first : first + size].mean(1)
            away = np.take_along_axis(by_seed, drawn[..., None], axis=1).mean(1) - centre
            part.append(centre + away * np.sqrt(size / max(size - 1, 1)))
            first += size
    return [np.concatenate(part) for part in parts]


def _cell_indicators(patterns: NDArray[np.int8], labels: int) -> Floats:
    """(patterns, seeds * labels * (labels + 1)): which confusion cell each seed's answer is in."""
    gold, answers = patterns[:, :1].astype(np.int64), patterns[:, 1:].astype(np.int64)
    size = labels * (labels + 1)
    columns = gold * (labels + 1) + answers + size * np.arange(answers.shape[1])
    found = np.zeros((len(patterns), answers.shape[1] * size))
    np.put_along_axis(found, columns, 1.0, axis=1)
    return found


def group_draws(
    gold: Codes,
    first: NDArray[np.int8],
    second: NDArray[np.int8],
    labels: int,
    resamples: int,
    rng: np.random.Generator,
) -> Floats:
    """first - second in every metric, resampled by seed and text: (resamples, metrics)."""
    one, two = hierarchical_draws(gold, [first, second], labels, resamples, rng)
    return one - two


def compare_groups(
    names: tuple[str, str],
    gold: Codes,
    first: NDArray[np.int8],
    second: NDArray[np.int8],
    labels: int,
    *,
    draws: Floats,
    level: float,
    least_p: float = 0.05,
) -> GroupComparison:
    """
    first - second, by the hierarchy; a t test over the seeds' metrics stands beside it.

    `draws`: those of `group_draws`. `least_p`: below it the p value of this pair counts, given the
    others of its family; for `smallest_shown`.
    """
    point = seed_metrics(gold, first, labels).mean(0) - seed_metrics(gold, second, labels).mean(0)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    differences = {
        metric: Interval(value=point[i], low=low[i], high=high[i], level=level)
        for i, metric in enumerate(METRICS)
        if metric in TESTED
    }
    column = METRICS.index("accuracy")
    return GroupComparison(
        first=names[0],
        second=names[1],
        seeds=(len(first), len(second)),
        differences=differences,
        bootstrap=_bootstrap_test(draws[:, column], (len(first), len(second))),
        seed_t_test=seed_t_test(gold, first, second, labels),
        smallest_shown=smallest_shown_by(draws[:, column] - point[column], least_p),
    )


def smallest_shown_by(deviations: Floats, least_p: float) -> float | None:
    """
    The least difference whose bootstrap p lies below `least_p`, in either direction.

    `deviations` (resamples,): the draws less the observed difference. Where the observed one is
    not shown it is no larger than this. None where no difference could have so small a p.
    """
    beyond = int(np.ceil(least_p * (1 + len(deviations)) / 2)) - 2  # draws on the far side of 0
    if beyond < 0:
        return None
    ordered = np.sort(deviations)
    return float(max(-ordered[beyond], ordered[-1 - beyond]))


def bootstrap_p(draws: Floats) -> float:
    """Two-sided p of no difference: twice the share of `draws` (resamples,) on 0's far side."""
    below, above = (1 + (draws <= 0).sum()), (1 + (draws >= 0).sum())
    return float(min(1.0, 2 * min(below, above) / (1 + len(draws))))


def _bootstrap_test(draws: Floats, sizes: tuple[int, int]) -> TestResult:
    single = min(sizes) < 2
    few = "fewer than five seeds on a side: the spread over seeds is only roughly known"
    lone = "one side has a single seed: its spread over seeds is not in the interval"
    return TestResult(
        name="bootstrap over seeds and texts",
        p=bootstrap_p(draws),
        assumes="seeds and texts are samples of those one cares for",
        met=min(sizes) >= 5,
        note=lone if single else few if min(sizes) < 5 else "",
    )


def seed_t_test(
    gold: Codes, first: NDArray[np.int8], second: NDArray[np.int8], labels: int
) -> TestResult | None:
    """Welch's t test over the seeds' accuracies; None below two seeds on a side."""
    if min(len(first), len(second)) < 2:
        return None
    column = METRICS.index("accuracy")
    a = seed_metrics(gold, first, labels)[:, column]
    b = seed_metrics(gold, second, labels)[:, column]
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return None
    with catch_warnings():
        # scipy warns where the seeds of one side are all equal; Welch's test allows for that.
        simplefilter("ignore", RuntimeWarning)
        result = stats.ttest_ind(a, b, equal_var=False)
    few = min(len(a), len(b)) < 5
    return TestResult(
        name="Welch t over seeds",
        statistic=float(result.statistic),
        p=float(result.pvalue),
        assumes="seeds are a normal sample; speaks of these texts only",
        met=not few,
        note="fewer than five seeds: their spread is only roughly known" if few else "",
    )
