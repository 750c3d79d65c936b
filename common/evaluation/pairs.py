"""Two systems on the same texts: McNemar, paired bootstrap, paired permutation, effect sizes."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from common.config.run import EvaluationConfig
from common.evaluation.comparison import Difference, PairComparison, ScoreTest, TestResult
from common.evaluation.counts import METRICS, Codes, Counts, Floats
from common.evaluation.resampling import (
    bootstrap_counts,
    intervals_of,
    joint_counts,
    paired_difference,
    permutation_p_values,
    point_and_acceleration,
)
from common.evaluation.scores import compare_all_scores
from common.records import Interval

TESTED = tuple(name for name in METRICS if name != "unparseable")
FEW_DISCORDANT = 25


@dataclass(frozen=True)
class Answers:
    """
    One system's answers as label codes, one a text, in the order of the gold codes.

    `scores`: what every text has of its own (shape (texts,), NaN for none), higher is better.
    """

    name: str
    codes: Codes
    scores: Mapping[str, Floats] = field(default_factory=dict)


def compare_pair(
    gold: Codes,
    first: Answers,
    second: Answers,
    labels: int,
    settings: EvaluationConfig,
    rng: np.random.Generator,
    family: str,
) -> PairComparison:
    """All tests of one pair, before correction over the family (see `corrected`)."""
    joint = joint_counts(gold, first.codes, second.codes, labels)
    both, only_first, only_second, neither = _agreement(joint)
    discordant = only_first + only_second
    n = len(gold)
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
        differences=_differences(joint, settings, rng),
        odds_ratio=odds_ratio(only_first, only_second, settings.confidence_level),
        probability_first_better=probability_better(only_first, only_second),
        smallest_shown=smallest_shown(discordant, n, settings.alpha),
        detectable=detectable(discordant, n, settings.alpha),
        scores=compare_all_scores(first.scores, second.scores, settings.confidence_level, rng),
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


def holm_and_bonferroni(p_values: Sequence[float]) -> list[tuple[float, float]]:
    """
    Corrected p values (Holm 1979, Bonferroni) in the order given.

    Written out because statsmodels' multipletests runs the garbage collector on every call (0.13 s
    in a large process, a hundred calls a report); a test holds the two equal.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    holm = np.empty_like(p)
    holm[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return list(zip(holm.tolist(), np.minimum(p * len(p), 1).tolist(), strict=True))


def corrected(pairs: Sequence[PairComparison], alpha: float) -> list[PairComparison]:
    """
    The pairs of one family with Holm's and Bonferroni's p values, each test its own.

    `smallest_shown` and `detectable` are set to alpha / family size: whatever Holm does not
    show then lies below `smallest_shown`, as p above Holm's threshold is above that level.
    """
    level = alpha / max(len(pairs), 1)
    exact = holm_and_bonferroni([pair.mcnemar.p for pair in pairs])
    differences = _corrected_differences(pairs)
    return [
        pair.model_copy(
            update={
                "mcnemar": _with(pair.mcnemar, exact[i]),
                "differences": differences[i],
                "scores": _corrected_scores(pair, pairs),
                "smallest_shown": smallest_shown(_discordant(pair), pair.n, level),
                "detectable": detectable(_discordant(pair), pair.n, level),
            }
        )
        for i, pair in enumerate(pairs)
    ]


def _corrected_differences(pairs: Sequence[PairComparison]) -> list[dict[str, Difference]]:
    found: list[dict[str, Difference]] = [{} for _ in pairs]
    for metric in TESTED:
        raw = [pair.differences[metric] for pair in pairs]
        both = holm_and_bonferroni([difference.permutation.p for difference in raw])
        for row, difference, p in zip(found, raw, both, strict=True):
            test = _with(difference.permutation, p)
            row[metric] = difference.model_copy(update={"permutation": test})
    return found


def _corrected_scores(pair: PairComparison, pairs: Sequence[PairComparison]) -> list[ScoreTest]:
    found = []
    for test in pair.scores:
        same = [t for p in pairs for t in p.scores if t.score == test.score]
        place = next(i for i, t in enumerate(same) if t is test)
        update = {
            kind: _with(
                getattr(test, kind),
                holm_and_bonferroni([getattr(t, kind).p for t in same])[place],
            )
            for kind in ("t_test", "wilcoxon")
        }
        found.append(test.model_copy(update=update))
    return found


def _with(test: TestResult, both: tuple[float, float]) -> TestResult:
    return test.model_copy(update={"p_holm": both[0], "p_bonferroni": both[1]})


def _discordant(pair: PairComparison) -> int:
    return pair.only_first_right + pair.only_second_right


def _agreement(joint: Counts) -> tuple[int, int, int, int]:
    labels = joint.shape[0]
    gold = np.arange(labels)
    both = int(joint[gold, gold, gold].sum())
    first = int(joint[gold, gold, :].sum())
    second = int(joint[gold, :, gold].sum())
    return both, first - both, second - both, int(joint.sum()) - first - second + both


def _differences(
    joint: Counts, settings: EvaluationConfig, rng: np.random.Generator
) -> dict[str, Difference]:
    draws = bootstrap_counts(joint, paired_difference, settings.bootstrap, rng)
    point, acceleration = point_and_acceleration(joint, paired_difference)
    intervals = intervals_of(draws, point, acceleration, settings.confidence_level)
    p_values = permutation_p_values(joint, settings.bootstrap, rng)
    above = (draws > 0).mean(0) + (draws == 0).mean(0) / 2
    assumes = "under the null the two answers to a text could be exchanged"
    return {
        metric: Difference(
            interval=intervals[i],
            permutation=TestResult(
                name="paired permutation", p=float(p_values[i]), assumes=assumes
            ),
            share_above_zero=float(above[i]),
        )
        for i, metric in enumerate(METRICS)
        if metric in TESTED
    }
