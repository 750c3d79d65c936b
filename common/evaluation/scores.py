"""Scores that every text has of its own, compared text by text."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pingouin import bayesfactor_ttest
from scipy import stats

from common.evaluation.calibration import brier_scores, log_losses, probability_matrix
from common.evaluation.comparison import ScoreTest, TestResult
from common.evaluation.counts import Codes, Floats
from common.evaluation.rationales import rationale_scores
from common.records import Example, Interval, Prediction, TeacherAnswer
from common.task import TaskDefinition

# scipy's Shapiro-Wilk p is not accurate above 5,000 values; a sample of that size is tested.
_SHAPIRO_MOST = 5000
_EFFECTS: tuple[tuple[float, Literal["negligible", "small", "medium", "large"]], ...] = (
    (0.8, "large"),
    (0.5, "medium"),
    (0.2, "small"),
)


def text_scores(
    gold: Sequence[Example],
    codes: Codes,
    predictions: Sequence[Prediction],
    task: TaskDefinition,
    teacher_answers: Mapping[str, TeacherAnswer],
) -> dict[str, Floats]:
    """
    What every text has of its own, higher is better, NaN for none: shape (texts,) each.

    The probability given to the gold label, log loss and Brier score below 0, and the rationale's
    scores (without those that need an encoder, and without its length, which is no virtue).
    """
    found = rationale_scores(gold, predictions, task, teacher_answers)
    found.pop("words", None)
    probabilities = probability_matrix(predictions, task.label_names)
    if not np.isnan(probabilities).all():
        found["gold_probability"] = probabilities[np.arange(len(codes)), codes]
        found["negative_log_loss"] = -log_losses(codes, probabilities)
        found["negative_brier"] = -brier_scores(codes, probabilities)
    return found


def compare_all_scores(
    first: Mapping[str, Floats],
    second: Mapping[str, Floats],
    level: float,
    rng: np.random.Generator,
) -> list[ScoreTest]:
    """Every score that both systems have, on the texts where both have it (no NaN)."""
    found = []
    for name in first:
        if name in second:
            both = ~(np.isnan(first[name]) | np.isnan(second[name]))
            one, two = first[name][both], second[name][both]
            found.append(compare_scores(name, one, two, level, rng))
    return [test for test in found if test is not None]


def compare_scores(
    name: str, first: Floats, second: Floats, level: float, rng: np.random.Generator
) -> ScoreTest | None:
    """
    Paired tests of one score, higher taken as better; `first` and `second` of shape (texts,).

    Both the paired t test and Wilcoxon's signed rank test are given; Shapiro-Wilk on the
    differences (at 0.05) says which one to read. None below three texts or without any
    difference.
    """
    gaps = first - second
    if len(gaps) < 3 or np.ptp(gaps) == 0:
        return None
    t_test, wilcoxon, normal = paired_tests(gaps, rng)
    t = t_test.statistic or 0.0
    effect_size = cohens_d(gaps)
    credible = posterior_of_mean(gaps, level)
    return ScoreTest(
        score=name,
        n=len(gaps),
        mean_first=float(first.mean()),
        mean_second=float(second.mean()),
        interval=_t_interval(gaps, level),
        t_test=t_test,
        wilcoxon=wilcoxon,
        advised="t_test" if normal else "wilcoxon",
        cohens_d=effect_size,
        effect=effect_word(effect_size),
        bayes_factor=_bayes_factor(t, len(gaps)),
        credible=credible,
        probability_first_better=float(
            stats.t.sf(0, len(gaps) - 1, loc=gaps.mean(), scale=stats.sem(gaps))
        ),
    )


def paired_tests(gaps: Floats, rng: np.random.Generator) -> tuple[TestResult, TestResult, bool]:
    """Paired t test, Wilcoxon's test, and whether Shapiro-Wilk takes the gaps for normal."""
    sample = gaps if len(gaps) <= _SHAPIRO_MOST else rng.choice(gaps, _SHAPIRO_MOST, replace=False)
    shapiro = float(stats.shapiro(sample).pvalue) if np.ptp(sample) else 0.0
    normal = shapiro >= 0.05
    t = stats.ttest_1samp(gaps, 0.0)
    ranks = stats.wilcoxon(gaps, zero_method="pratt", method="approx")
    skew = float(stats.skew(gaps))
    t_test = TestResult(
        name="paired t",
        statistic=float(t.statistic),
        p=float(t.pvalue),
        assumes="differences are normal, or many enough for their mean to be",
        met=normal,
        note=f"Shapiro-Wilk p = {shapiro:.3g}"
        + ("" if normal else f"; with n = {len(gaps)} the mean may be normal all the same"),
    )
    wilcoxon = TestResult(
        name="Wilcoxon signed rank",
        statistic=float(ranks.statistic),
        p=float(ranks.pvalue),
        assumes="differences are symmetric about their median",
        met=abs(skew) < 1,
        note=f"skewness {skew:.2f}; ties with 0 kept (Pratt)",
    )
    return t_test, wilcoxon, normal


def cohens_d(gaps: Floats) -> float:
    """Paired d (d_z): mean of the differences over their standard deviation."""
    return float(gaps.mean() / gaps.std(ddof=1))


def effect_word(d: float) -> Literal["negligible", "small", "medium", "large"]:
    """Cohen's words: 0.2 small, 0.5 medium, 0.8 large."""
    return next((word for least, word in _EFFECTS if abs(d) >= least), "negligible")


def posterior_of_mean(gaps: Floats, level: float) -> Interval:
    """Credible interval of the mean difference under Jeffreys' prior (scipy.stats.bayes_mvs)."""
    mean, _, _ = stats.bayes_mvs(gaps, alpha=level)
    low, high = (float(x) for x in mean.minmax)
    return Interval(value=float(mean.statistic), low=low, high=high, level=level)


def _t_interval(gaps: Floats, level: float) -> Interval:
    interval = stats.ttest_1samp(gaps, 0.0).confidence_interval(level)
    return Interval(
        value=float(gaps.mean()),
        low=float(interval.low),
        high=float(interval.high),
        level=level,
    )


def _bayes_factor(t: float, n: int) -> float | None:
    # JZS prior with scale 0.707 on the standardised difference (Rouder et al. 2009). For a large t
    # its integral underflows in pingouin (1 / 0, or infinite): beyond any doubt, and not a number.
    try:
        with np.errstate(all="ignore"):
            factor = float(bayesfactor_ttest(t, n, paired=True))
    except ZeroDivisionError:
        return None
    return factor if np.isfinite(factor) else None
