"""Two systems on the same texts: McNemar, paired bootstrap, paired permutation, effect sizes."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from common.config.run import EvaluationConfig
from common.evaluation.comparison import Difference, PairComparison, TestResult
from common.evaluation.counts import BY_LABEL, METRICS, Codes, Counts, Floats
from common.evaluation.paired_calibration import Confidence, ece_difference
from common.evaluation.paired_means import mean_differences
from common.evaluation.resampling import (
    bootstrap_counts,
    differences_of,
    joint_counts,
    paired_difference,
    permutation_p_values,
    point_and_acceleration,
)
from common.evaluation.scores import compare_all_scores
from common.records import Interval

FEW_DISCORDANT = 25


@dataclass(frozen=True)
class Answers:
    """
    One system's answers as label codes, one a text, in the order of the gold codes.

    `scores`: what every text has of its own (shape (texts,), NaN for none), higher is better.
    `confidence`: how sure it was of each text, where it gave probabilities.
    """

    name: str
    codes: Codes
    scores: Mapping[str, Floats] = field(default_factory=dict)
    confidence: Confidence | None = None


def compare_pair(
    gold: Codes,
    first: Answers,
    second: Answers,
    names: Sequence[str],
    settings: EvaluationConfig,
    rng: np.random.Generator,
    family: str,
    parts: Mapping[str, NDArray[np.bool_]] | None = None,
) -> PairComparison:
    """
    All tests of one pair, before correction over the family (see `correction.corrected`).

    `names` of the labels, in the order of their codes; `parts`: masks of texts judged beside.
    """
    joint = joint_counts(gold, first.codes, second.codes, len(names))
    both, only_first, only_second, neither = _agreement(joint)
    discordant = only_first + only_second
    n = len(gold)
    differences, by_label = _differences(joint, names, settings, rng)
    scores = compare_all_scores(first.scores, second.scores, settings, rng)
    gaps = (first.codes == gold).astype(np.float64) - (second.codes == gold)
    return PairComparison(
        first=first.name,
        second=second.name,
        family=family,
        n=n,
        both_right=both,
        only_first_right=only_first,
        only_second_right=only_second,
        both_wrong=neither,
        mcnemar=mcnemar_test(only_first, only_second),
        differences=differences | _calibration(first, second, settings, rng),
        by_label=by_label,
        parts=_on_parts(gaps, parts or {}, settings, rng),
        odds_ratio=odds_ratio(only_first, only_second, settings.confidence_level),
        probability_first_better=probability_better(only_first, only_second),
        smallest_shown=smallest_shown(discordant, n, settings.alpha),
        detectable=detectable(discordant, n, settings.alpha),
        scores=scores,
    )


def mcnemar_test(only_first: int, only_second: int) -> TestResult:
    """
    McNemar's test on the texts that one system alone has right.

    Exact (binomial) below 25 such texts; otherwise asymptotic without continuity correction,
    which keeps its level better than the corrected form (Fagerland, Lydersen & Laake 2013).
    """
    discordant = only_first + only_second
    exact = discordant < FEW_DISCORDANT
    name = "McNemar, exact" if exact else "McNemar, asymptotic"
    assumes = "texts are independent of each other and both systems answered the same ones"
    if discordant == 0:
        note = "the systems are right and wrong on the same texts: nothing to test"
        return TestResult(name=name, p=1.0, assumes=assumes, met=False, note=note)
    result = mcnemar([[0, only_first], [only_second, 0]], exact=exact, correction=False)
    note = f"fewer than {FEW_DISCORDANT} discordant texts ({discordant})" if exact else ""
    return TestResult(
        name=name,
        statistic=float(result.statistic),
        p=float(result.pvalue),
        assumes=assumes + ("" if exact else f"; at least {FEW_DISCORDANT} discordant texts"),
        note=note,
    )


def odds_ratio(only_first: int, only_second: int, level: float) -> Interval | None:
    """
    Odds that the first is the one that is right where just one is, with its exact interval.

    From the Clopper-Pearson interval of the share. None where it is 0 or infinite.
    """
    if not only_first or not only_second:
        return None
    low, high = proportion_confint(
        only_first, only_first + only_second, alpha=1 - level, method="beta"
    )
    value = only_first / only_second
    return Interval(value=value, low=low / (1 - low), high=high / (1 - high), level=level)


def probability_better(only_first: int, only_second: int) -> float:
    """
    Posterior probability that the first is more often right than the second.

    The share of discordant texts it wins has a Jeffreys prior, Beta(1/2, 1/2).
    """
    return float(stats.beta.sf(0.5, only_first + 0.5, only_second + 0.5))


def smallest_shown(discordant: int, n: int, alpha: float) -> float:
    """
    The least difference in accuracy that McNemar calls significant at `alpha`.

    Given the number of discordant texts observed; 1 where no outcome could be significant.
    """
    wins = range((discordant + 1) // 2, discordant + 1)
    place = bisect_left(wins, True, key=lambda won: mcnemar_test(won, discordant - won).p < alpha)
    return (2 * wins[place] - discordant) / n if place < len(wins) and discordant else 1.0


def detectable(discordant: int, n: int, alpha: float, power: float = 0.8) -> float:
    """
    The true difference in accuracy that McNemar's test finds with this power.

    Connor (1987): n d^2 = (z_a sqrt(psi) + z_b sqrt(psi - d^2))^2 with psi the share of
    discordant texts; solved for d. 1 where no difference reaches it.
    """
    share = max(discordant, 1) / n
    one, two = stats.norm.isf(alpha / 2), stats.norm.ppf(power)
    grid = np.linspace(0, share, 20_001)[1:]
    reached = np.sqrt(n) * grid - one * np.sqrt(share) - two * np.sqrt(share - grid**2).clip(0)
    return float(grid[np.argmax(reached >= 0)]) if (reached >= 0).any() else 1.0


def _agreement(joint: Counts) -> tuple[int, int, int, int]:
    labels = joint.shape[0]
    gold = np.arange(labels)
    both = int(joint[gold, gold, gold].sum())
    first = int(joint[gold, gold, :].sum())
    second = int(joint[gold, :, gold].sum())
    return both, first - both, second - both, int(joint.sum()) - first - second + both


def _differences(
    joint: Counts, names: Sequence[str], settings: EvaluationConfig, rng: np.random.Generator
) -> tuple[dict[str, Difference], dict[str, dict[str, Difference]]]:
    """By metric, and by label: all from the same resamples of the texts."""
    draws = bootstrap_counts(joint, paired_difference, settings.bootstrap, rng)
    point, acceleration = point_and_acceleration(joint, paired_difference)
    p_values = permutation_p_values(joint, settings.bootstrap, rng)
    found = differences_of(draws, point, acceleration, p_values, settings.confidence_level)
    metrics = dict(zip(METRICS, found, strict=False))
    if not joint[:, -1].any() and not joint[:, :, -1].any():
        del metrics["unparseable"]  # nobody gave an answer that cannot be read
    places = range(len(METRICS), len(found), len(names))
    tables = [found[i : i + len(names)] for i in places]
    return metrics, {
        name: {score: table[i] for score, table in zip(BY_LABEL, tables, strict=True)}
        for i, name in enumerate(names)
        if joint[i].any()
    }


def _on_parts(
    gaps: Floats,
    parts: Mapping[str, NDArray[np.bool_]],
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> dict[str, Difference]:
    return {
        name: mean_differences(gaps[mask][:, None], settings, rng)[0]
        for name, mask in parts.items()
    }


def _calibration(
    first: Answers, second: Answers, settings: EvaluationConfig, rng: np.random.Generator
) -> dict[str, Difference]:
    if first.confidence is None or second.confidence is None:
        return {}
    found = ece_difference(first.confidence, second.confidence, settings, rng)
    return {} if found is None else {"ece": found}
