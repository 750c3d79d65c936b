"""Scores that every text has of its own, compared text by text."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pingouin import bayesfactor_ttest
from scipy import stats

from common.config.run import EvaluationConfig
from common.evaluation.calibration import brier_scores, log_losses, mean_interval
from common.evaluation.comparison import Difference, ScoreTest, TestResult
from common.evaluation.counts import Codes, Floats
from common.evaluation.paired_means import mean_differences
from common.evaluation.rationales import rationale_scores
from common.records import Example, Interval, Prediction, TeacherAnswer
from common.task import TaskDefinition

# scipy's Shapiro-Wilk p is not accurate above 5,000 values; a sample of that size is tested.
_SHAPIRO_MOST = 5000
_FEWEST = 3  # texts with a difference to test
_ROUNDING = 1e-12
_NORMAL = "differences are normal, or many enough for their mean to be"
_EFFECTS: tuple[tuple[float, Literal["negligible", "small", "medium", "large"]], ...] = (
    (0.8, "large"),
    (0.5, "medium"),
    (0.2, "small"),
)


def rationale_text_scores(
    gold: Sequence[Example],
    predictions: Sequence[Prediction],
    task: TaskDefinition,
    teacher_answers: Mapping[str, TeacherAnswer],
    encoder: str | None = None,
) -> dict[str, Floats]:
    """
    The rationale's scores by text, higher is better, NaN for none: shape (texts,) each.

    All of `rationale_scores` but the length, which is no virtue.
    """
    found = rationale_scores(gold, predictions, task, teacher_answers, encoder)
    return {name: values for name, values in found.items() if name != "words"}


def probability_text_scores(gold: Codes, probabilities: Floats) -> dict[str, Floats]:
    """
    What `probabilities` (texts, labels) are worth by text, NaN for none: shape (texts,) each.

    The probability given to the gold label; log loss and Brier score below 0, so that higher is
    better. Empty where no text has probabilities.
    """
    if np.isnan(probabilities).all():
        return {}
    return {
        "gold_probability": probabilities[np.arange(len(gold)), gold],
        "negative_log_loss": -log_losses(gold, probabilities),
        "negative_brier": -brier_scores(gold, probabilities),
    }


def compare_all_scores(
    first: Mapping[str, Floats],
    second: Mapping[str, Floats],
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> list[ScoreTest]:
    """Every score that both systems have, on the texts where both have it (no NaN)."""
    texts: dict[bytes, list[str]] = {}  # scores on the same texts share their resamples
    gaps = {name: first[name] - second[name] for name in first if name in second}
    for name, found in gaps.items():
        both = ~np.isnan(found)
        if both.sum() >= _FEWEST and np.abs(found[both]).max() > _ROUNDING:
            texts.setdefault(both.tobytes(), []).append(name)
    tests = {}
    for mask, names in texts.items():
        both = np.frombuffer(mask, dtype=np.bool_)
        together = np.stack([gaps[name][both] for name in names], axis=1)
        for name, resampled in zip(names, mean_differences(together, settings, rng), strict=True):
            one, two = first[name][both], second[name][both]
            tests[name] = compare_scores(name, one, two, resampled, rng)
    return [tests[name] for name in gaps if name in tests]


def compare_scores(
    name: str, first: Floats, second: Floats, resampled: Difference, rng: np.random.Generator
) -> ScoreTest:
    """
    Paired tests of one score, higher taken as better; `first` and `second` of shape (texts,).

    Both the paired t test and Wilcoxon's signed rank test are given; Shapiro-Wilk on the
    differences (at 0.05) says which one to read. `resampled`: the same difference by bootstrap and
    permutation.
    """
    gaps = first - second
    level = resampled.interval.level
    t_test, wilcoxon, normal = paired_tests(gaps, rng)
    effect_size = cohens_d(gaps)
    return ScoreTest(
        score=name,
        n=len(gaps),
        mean_first=float(first.mean()),
        mean_second=float(second.mean()),
        interval=mean_interval(gaps, level),
        resampled=resampled,
        t_test=t_test,
        wilcoxon=wilcoxon,
        advised="t_test" if normal else "wilcoxon",
        cohens_d=effect_size,
        effect=effect_word(effect_size),
        bayes_factor=_bayes_factor(t_test.statistic, len(gaps)),
        credible=posterior_of_mean(gaps, level),
        probability_first_better=_posterior_above_zero(gaps),
    )


def paired_tests(gaps: Floats, rng: np.random.Generator) -> tuple[TestResult, TestResult, bool]:
    """
    Paired t test, Wilcoxon's test, and whether Shapiro-Wilk takes the gaps for normal.

    Wilcoxon's p is exact for few texts (scipy's choice). Gaps that are all the same leave the t
    test without a spread to test by, which is said.
    """
    if not has_spread(gaps):
        return _untested_t(), _wilcoxon(gaps, 0.0), False
    sample = gaps if len(gaps) <= _SHAPIRO_MOST else rng.choice(gaps, _SHAPIRO_MOST, replace=False)
    shapiro = float(stats.shapiro(sample).pvalue) if has_spread(sample) else 0.0
    normal = shapiro >= 0.05
    t = stats.ttest_1samp(gaps, 0.0)
    t_test = TestResult(
        name="paired t",
        statistic=float(t.statistic),
        p=float(t.pvalue),
        assumes=_NORMAL,
        met=normal,
        note=f"Shapiro-Wilk p = {shapiro:.3g}"
        + ("" if normal else f"; with n = {len(gaps)} the mean may be normal all the same"),
    )
    return t_test, _wilcoxon(gaps, float(stats.skew(gaps))), normal


def _untested_t() -> TestResult:
    note = "all differences are the same: no spread to test by"
    return TestResult(name="paired t", p=1.0, assumes=_NORMAL, met=False, note=note)


def _wilcoxon(gaps: Floats, skew: float) -> TestResult:
    ranks = stats.wilcoxon(gaps, zero_method="pratt", method="auto")
    return TestResult(
        name="Wilcoxon signed rank",
        statistic=float(ranks.statistic),
        p=float(ranks.pvalue),
        assumes="differences are symmetric about their median",
        met=abs(skew) < 1,
        note=f"skewness {skew:.2f}; ties with 0 kept (Pratt)",
    )


def has_spread(gaps: Floats) -> bool:
    """Whether the gaps differ from each other by more than rounding."""
    return float(np.ptp(gaps)) > _ROUNDING * max(1.0, float(np.abs(gaps).max()))


def cohens_d(gaps: Floats) -> float | None:
    """Paired d (d_z): mean of the differences over their standard deviation; None without any."""
    return float(gaps.mean() / gaps.std(ddof=1)) if has_spread(gaps) else None


def effect_word(d: float | None) -> Literal["negligible", "small", "medium", "large"]:
    """Cohen's words: 0.2 small, 0.5 medium, 0.8 large; None is beyond them."""
    size = np.inf if d is None else abs(d)
    return next((word for least, word in _EFFECTS if size >= least), "negligible")


def posterior_of_mean(gaps: Floats, level: float) -> Interval:
    """Credible interval of the mean difference under Jeffreys' prior (scipy.stats.bayes_mvs)."""
    if not has_spread(gaps):
        return mean_interval(gaps, level)
    mean, _, _ = stats.bayes_mvs(gaps, alpha=level)
    low, high = (float(x) for x in mean.minmax)
    return Interval(value=float(mean.statistic), low=low, high=high, level=level)


def _posterior_above_zero(gaps: Floats) -> float:
    if not has_spread(gaps):
        return float(gaps.mean() > 0)
    return float(stats.t.sf(0, len(gaps) - 1, loc=gaps.mean(), scale=stats.sem(gaps)))


def _bayes_factor(t: float | None, n: int) -> float | None:
    # JZS prior with scale 0.707 on the standardised difference (Rouder et al. 2009). For a large t
    # its integral underflows in pingouin (1 / 0, or infinite): beyond any doubt, and not a number.
    if t is None:
        return None
    try:
        with np.errstate(all="ignore"):
            factor = float(bayesfactor_ttest(t, n, paired=True))
    except ZeroDivisionError:
        return None
    return factor if np.isfinite(factor) else None
