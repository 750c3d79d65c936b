"""Every statistic against an independent implementation, and on simulated data."""

import re
import warnings

import numpy as np
import pingouin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from common.config.run import EvaluationConfig
from common.evaluation.comparison import ScoreTest
from common.evaluation.correction import corrected, holm_and_bonferroni, holm_level
from common.evaluation.counts import METRICS, confusion_counts, metrics_from_counts
from common.evaluation.grouping import compare_family
from common.evaluation.pairs import (
    Answers,
    compare_pair,
    detectable,
    mcnemar_test,
    odds_ratio,
    probability_better,
    smallest_shown,
)
from common.evaluation.resampling import (
    bca_intervals,
    joint_counts,
    paired_difference,
    permutation_p_values,
)
from common.evaluation.scores import (
    cohens_d,
    compare_all_scores,
    effect_word,
    paired_tests,
)
from common.evaluation.seeds import (
    compare_groups,
    group_draws,
    hierarchical_draws,
    seed_group,
    seed_t_test,
    smallest_shown_by,
)
from common.evaluation.verdicts import bound_points, outcome_of, sentence, signed_points
from common.records import Interval

QUICK = EvaluationConfig(bootstrap=1000)
NAMES = ("low", "middle", "high")
ACCURACY, MACRO_F1 = METRICS.index("accuracy"), METRICS.index("macro_f1")
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def score_test(one: np.ndarray, two: np.ndarray) -> ScoreTest:
    """The tests of one score, by the way that a comparison takes."""
    rng = np.random.default_rng(0)
    (found,) = compare_all_scores({"x": one}, {"x": two}, QUICK, rng)
    return found


def pair_of_systems(n: int, first: float = 0.8, second: float = 0.75, seed: int = 0) -> Arrays:
    """Gold and two systems whose errors are correlated, as real systems' are."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(3, n, p=[0.12, 0.6, 0.28])
    hard = rng.random(n)
    codes = []
    for accuracy in (first, second):
        wrong = (0.6 * hard + 0.4 * rng.random(n)) > np.quantile(hard, accuracy)
        codes.append(np.where(wrong, (gold + rng.integers(1, 3, n)) % 3, gold).astype(np.int8))
    return gold.astype(np.int8), codes[0], codes[1]


def test_bca_interval_equals_scipys() -> None:
    gold, answers, _ = pair_of_systems(300)
    counts = confusion_counts(gold, answers, 3)

    ours = bca_intervals(counts, metrics_from_counts, 9999, 0.95, np.random.default_rng(1))

    for place, statistic in (
        (ACCURACY, lambda g, a: np.mean(g == a)),
        (MACRO_F1, lambda g, a: f1_score(g, a, average="macro")),
    ):
        reference = stats.bootstrap(
            (gold, answers),
            statistic,
            paired=True,
            vectorized=False,
            n_resamples=999,
            method="BCa",
            rng=np.random.default_rng(2),
        ).confidence_interval
        assert ours[place].low == pytest.approx(reference.low, abs=0.006)
        assert ours[place].high == pytest.approx(reference.high, abs=0.006)


def test_paired_bca_interval_of_a_difference_equals_scipys() -> None:
    gold, one, two = pair_of_systems(400)
    joint = joint_counts(gold, one, two, 3)

    ours = bca_intervals(joint, paired_difference, 9999, 0.95, np.random.default_rng(1))
    reference = stats.bootstrap(
        ((one == gold) * 1.0 - (two == gold) * 1.0,),
        np.mean,
        n_resamples=9999,
        method="BCa",
        rng=np.random.default_rng(2),
    ).confidence_interval

    assert ours[ACCURACY].low == pytest.approx(reference.low, abs=0.004)
    assert ours[ACCURACY].high == pytest.approx(reference.high, abs=0.004)


def test_an_interval_of_equal_texts_has_no_width() -> None:
    counts = np.array([[5, 0, 0], [0, 7, 0]])

    found = bca_intervals(counts, metrics_from_counts, 200, 0.95, np.random.default_rng(0))

    assert (found[0].low, found[0].value, found[0].high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("one", "two"), [(3, 9), (10, 14), (12, 12), (0, 5)])
def test_few_discordant_texts_are_tested_exactly(one: int, two: int) -> None:
    found = mcnemar_test(one, two)

    assert "exact" in found.name
    assert found.p == pytest.approx(stats.binomtest(one, one + two).pvalue)


def test_many_discordant_texts_are_tested_by_chi_square() -> None:
    found = mcnemar_test(60, 40)

    # (60 - 40)^2 / 100 = 4, one degree of freedom
    assert found.p == pytest.approx(stats.chi2.sf(4.0, 1))
    table = [[0, 60], [40, 0]]
    assert found.p == pytest.approx(
        statsmodels_mcnemar(table, exact=False, correction=False).pvalue
    )


def test_no_discordant_text_is_said_and_not_tested() -> None:
    found = mcnemar_test(0, 0)

    assert found.p == 1.0
    assert not found.met


def test_permutation_test_of_accuracy_is_the_exact_sign_test() -> None:
    gold, one, two = pair_of_systems(200)
    joint = joint_counts(gold, one, two, 3)
    wins, losses = (
        int(((one == gold) & (two != gold)).sum()),
        int(((one != gold) & (two == gold)).sum()),
    )

    found = permutation_p_values(joint, 50_000, np.random.default_rng(0))[ACCURACY]

    assert found == pytest.approx(stats.binomtest(wins, wins + losses).pvalue, abs=0.01)


def test_permutation_test_of_macro_f1_equals_scipys() -> None:
    gold, one, two = pair_of_systems(150, 0.8, 0.7)

    def difference(a: np.ndarray, b: np.ndarray) -> float:
        return float(
            f1_score(gold, a, average="macro", labels=[0, 1, 2])
            - f1_score(gold, b, average="macro", labels=[0, 1, 2])
        )

    reference = stats.permutation_test(
        (one, two),
        difference,
        permutation_type="samples",
        vectorized=False,
        n_resamples=999,
        rng=np.random.default_rng(0),
    ).pvalue
    ours = permutation_p_values(joint_counts(gold, one, two, 3), 20_000, np.random.default_rng(1))

    assert ours[MACRO_F1] == pytest.approx(reference, abs=0.03)


def test_a_permutation_p_is_never_zero() -> None:
    gold = np.zeros(500, np.int8)

    p = permutation_p_values(
        joint_counts(gold, gold, gold + np.int8(1), 2), 99, np.random.default_rng(0)
    )

    assert p[ACCURACY] == pytest.approx(0.01)


def test_holm_and_bonferroni_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.04: Holm 3 * 0.01, 2 * 0.02, then at least the one before.
    found = holm_and_bonferroni([0.04, 0.01, 0.02])

    assert [p for p, _ in found] == pytest.approx([0.04, 0.03, 0.04])
    assert [p for _, p in found] == pytest.approx([0.12, 0.03, 0.06])


def test_holm_and_bonferroni_equal_statsmodels() -> None:
    p_values = np.random.default_rng(0).random(12) ** 3

    found = holm_and_bonferroni(p_values.tolist())

    assert [p for p, _ in found] == pytest.approx(multipletests(p_values, method="holm")[1])
    assert [p for _, p in found] == pytest.approx(multipletests(p_values, method="bonferroni")[1])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_shows_a_p_exactly_where_it_lies_below_its_level(p_values: list[float]) -> None:
    for i, (holm, _) in enumerate(holm_and_bonferroni(p_values)):
        level = holm_level([*p_values[:i], *p_values[i + 1 :]], 0.05)

        assert (holm < 0.05) == (p_values[i] < level) or p_values[i] == pytest.approx(level)


def test_odds_ratio_and_its_exact_interval() -> None:
    found = odds_ratio(30, 15, 0.95)
    share = stats.binomtest(30, 45).proportion_ci(0.95, method="exact")

    assert found is not None
    assert found.value == 2.0
    assert found.low == pytest.approx(share.low / (1 - share.low))
    assert found.high == pytest.approx(share.high / (1 - share.high))
    assert odds_ratio(5, 0, 0.95) is None


def test_probability_of_being_better_by_sampling_the_posterior() -> None:
    draws = np.random.default_rng(0).beta(20.5, 12.5, 400_000)

    assert probability_better(20, 12) == pytest.approx((draws > 0.5).mean(), abs=0.003)
    assert probability_better(7, 7) == pytest.approx(0.5)


def test_smallest_difference_shown_is_the_first_significant_one() -> None:
    # 12 discordant texts: 10 to 2 gives p = 0.0386, 9 to 3 gives 0.146 (binomial).
    assert smallest_shown(12, 100, 0.05) == pytest.approx(0.08)
    assert smallest_shown(4, 100, 0.05) == 1.0
    assert smallest_shown(0, 100, 0.05) == 1.0


def test_detectable_difference_is_detected_four_times_in_five() -> None:
    n, discordant = 1212, 120
    gap = detectable(discordant, n, 0.05)
    rng = np.random.default_rng(0)
    share = discordant / n
    wins = rng.multinomial(n, [(share + gap) / 2, (share - gap) / 2, 1 - share], size=4000)

    power = np.mean([mcnemar_test(int(a), int(b)).p < 0.05 for a, b, _ in wins])

    assert power == pytest.approx(0.8, abs=0.03)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(30, 400),
    first=st.floats(0.3, 0.95),
    second=st.floats(0.3, 0.95),
    third=st.floats(0.3, 0.95),
    seed=st.integers(0, 10_000),
)
def test_no_verdict_contradicts_the_table(
    n: int, first: float, second: float, third: float, seed: int
) -> None:
    gold, one, two = pair_of_systems(n, first, second, seed)
    _, three, _ = pair_of_systems(n, third, third, seed)
    quick = EvaluationConfig(bootstrap=200)
    rng = np.random.default_rng(seed)
    names = {"a": "A", "b": "B", "c": "C"}
    raw = [
        compare_pair(gold, Answers("a", one), Answers(name, codes), NAMES, quick, rng, "primary")
        for name, codes in (("b", two), ("c", three))
    ]

    for pair in corrected(raw, 0.05):
        outcome = outcome_of(pair, 0.05)
        said = sentence(pair, names, outcome, 0.05)
        gap = pair.differences["accuracy"].interval
        holm = pair.mcnemar.p_holm or 0.0
        if outcome == "first_ahead":
            assert said.startswith(f"A is ahead of {names[pair.second]} by")
            assert gap.low > 0
            assert holm < 0.05
        elif outcome == "second_ahead":
            assert said.startswith(f"{names[pair.second]} is ahead of A by")
            assert gap.high < 0
        else:
            assert "no difference shown" in said
        if "could not be seen" in said:
            assert holm >= 0.05
        # "Could be shown from" stands in the same row as the difference, shown or not.
        if pair.discordant:
            assert (abs(gap.value) >= pair.smallest_shown - 1e-12) == (holm < 0.05)


def gap_of(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high)


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (gap_of(0.031, 0.012, 0.05), "+3.1 points [+1.2, +5.0]"),
        (gap_of(0.0, -0.02, 0.02), "+0.0 points [\u22122.0, +2.0]"),
        (gap_of(4e-4, 2e-4, 6e-4), "+0.04 points [+0.02, +0.06]"),
        (gap_of(0.02, 3e-4, 0.04), "+2.00 points [+0.03, +4.00]"),
        (gap_of(1e-17, -0.01, 0.01), "+0.0 points [\u22121.0, +1.0]"),
    ],
)
def test_no_bound_is_rounded_to_zero(gap: Interval, said: str) -> None:
    assert signed_points(gap) == said


def test_what_could_not_be_seen_is_never_printed_as_small_as_what_was() -> None:
    gap = gap_of(0.0246, -0.001, 0.05)

    # To one digit both are 2.5.
    assert signed_points(gap, 0.0249).startswith("+2.46 points")
    assert bound_points(0.0249, gap) == "2.49 points"
    assert bound_points(0.031, gap) == "3.1 points"


@settings(max_examples=40, deadline=None)
@given(n=st.integers(20_000, 400_000), wins=st.integers(0, 400), losses=st.integers(0, 400))
def test_verdicts_of_many_texts_agree_with_their_own_figures(
    n: int, wins: int, losses: int
) -> None:
    gold = np.zeros(n, np.int8)
    place = np.arange(n)
    one = ((place >= wins) & (place < wins + losses)).astype(np.int8)
    two = (place < wins).astype(np.int8)
    pair = compare_pair(
        gold, Answers("a", one), Answers("b", two), ("x", "y"), EvaluationConfig(bootstrap=100),
        np.random.default_rng(0), "f",
    )  # fmt: skip
    (found,) = corrected([pair], 0.05)

    said = sentence(found, {"a": "A", "b": "B"}, outcome_of(found, 0.05), 0.05)

    figures = re.search(
        r"([+\u2212]?[\d.]+) points \[([+\u2212]?[\d.]+), ([+\u2212]?[\d.]+)\]", said
    )
    assert figures
    value, low, high = (float(x.replace("\u2212", "-")) for x in figures.groups())
    if "is ahead of" in said:
        assert min(value, low, high) > 0
    elif seen := re.search(r"under ([\d.]+) points", said):
        assert abs(value) < float(seen[1])


def test_paired_t_and_wilcoxon_equal_pingouins() -> None:
    rng = np.random.default_rng(4)
    one, two = rng.normal(0.2, 1, 60), rng.normal(0, 1, 60)

    t_test, wilcoxon, normal = paired_tests(one - two, rng)
    reference = pingouin.ttest(one, two, paired=True)

    assert normal
    assert t_test.p == pytest.approx(float(reference["p_val"].iloc[0]))
    assert t_test.statistic == pytest.approx(float(reference["T"].iloc[0]))
    assert wilcoxon.p == pytest.approx(
        stats.wilcoxon(one, two, method="approx", zero_method="pratt").pvalue
    )


def test_bayes_factor_equals_pingouins_and_a_published_value() -> None:
    rng = np.random.default_rng(5)
    one = rng.normal(0.5, 1, 40)
    two = rng.normal(0, 1, 40)

    found = score_test(one, two)

    assert found is not None
    assert found.bayes_factor == pytest.approx(
        float(pingouin.ttest(one, two, paired=True)["BF10"].iloc[0]), rel=0.01
    )


def test_effect_size_by_hand_and_its_word() -> None:
    # Differences 1, 2, 3: mean 2, standard deviation 1.
    assert cohens_d(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.0)
    words = [effect_word(d) for d in (0.1, -0.2, 0.5, -0.9)]
    assert words == ["negligible", "small", "medium", "large"]


def test_credible_interval_holds_its_share_of_the_posterior() -> None:
    rng = np.random.default_rng(6)
    one, two = rng.normal(0.3, 1, 50), rng.normal(0, 1, 50)

    found = score_test(one, two)

    assert found is not None
    gaps = one - two
    draws = gaps.mean() + stats.sem(gaps) * rng.standard_t(49, 200_000)
    inside = ((draws > found.credible.low) & (draws < found.credible.high)).mean()
    assert inside == pytest.approx(0.95, abs=0.003)
    assert found.probability_first_better == pytest.approx((draws > 0).mean(), abs=0.003)


def test_skewed_differences_advise_wilcoxon_and_say_so() -> None:
    rng = np.random.default_rng(7)
    gaps = rng.exponential(1.0, 80) - 0.7

    t_test, wilcoxon, normal = paired_tests(gaps, rng)

    assert not normal
    assert not t_test.met
    assert not wilcoxon.met


def test_scores_are_compared_where_both_systems_have_them() -> None:
    rng = np.random.default_rng(8)
    one = {"rougeL": rng.random(30), "only_mine": rng.random(30)}
    two = {"rougeL": np.where(np.arange(30) < 10, np.nan, rng.random(30))}

    found = compare_all_scores(one, two, QUICK, rng)

    assert [(test.score, test.n) for test in found] == [("rougeL", 20)]


@pytest.mark.parametrize("noise", [0.0, 1e-16])
def test_equal_scores_give_no_test(noise: float) -> None:
    same = np.ones(10)

    found = compare_all_scores({"x": same}, {"x": same + noise}, QUICK, np.random.default_rng(0))

    assert found == []


@pytest.mark.parametrize("noise", [0.0, 1e-16])
def test_a_difference_that_is_the_same_for_every_text_is_no_equality(noise: float) -> None:
    wiggle = noise * np.arange(12)

    found = score_test(np.ones(12) + wiggle, np.zeros(12))

    # Every text speaks for the first: one sign pattern in 2^12 on each side.
    assert found.wilcoxon.p == pytest.approx(2 / 2**12)
    assert found.resampled.permutation.p == pytest.approx(2 / 2**12, abs=4e-3)
    assert (found.t_test.met, found.t_test.p, found.advised) == (False, 1.0, "wilcoxon")
    assert "no spread" in found.t_test.note
    assert (found.cohens_d, found.effect, found.bayes_factor) == (None, "large", None)
    lows = (found.interval.low, found.credible.low, found.resampled.interval.low)
    assert lows == pytest.approx((1.0, 1.0, 1.0))
    assert found.probability_first_better == 1.0


def test_wilcoxon_of_few_texts_is_exact() -> None:
    gaps = np.array([0.3, -0.1, 0.5, 0.7, 0.2, 0.9, 0.4])

    _, found, _ = paired_tests(gaps, np.random.default_rng(0))

    # The one negative gap has rank 1: of the 2^7 sign patterns, {} and {1} lie as far out.
    assert found.p == pytest.approx(2 * 2 / 2**7)


def test_enormous_effects_have_no_bayes_factor_rather_than_a_crash() -> None:
    rng = np.random.default_rng(9)

    found = score_test(rng.normal(50, 1, 2000), rng.normal(0, 1, 2000))

    assert found.bayes_factor is None


def seeds_of(n: int, accuracies: list[float], rng: np.random.Generator) -> Arrays:
    gold = rng.integers(0, 3, n).astype(np.int8)
    hard = rng.random(n)
    rows = [
        np.where(0.7 * hard + 0.3 * rng.random(n) < a, gold, (gold + 1) % 3) for a in accuracies
    ]
    return gold, np.stack(rows).astype(np.int8), hard


def test_hierarchy_equals_a_plain_loop_over_seeds_and_texts() -> None:
    rng = np.random.default_rng(10)
    gold, answers, _ = seeds_of(200, [0.8, 0.7, 0.75], rng)
    right = answers == gold

    draws = hierarchical_draws(gold, [answers], 3, 4000, np.random.default_rng(0))[0][:, ACCURACY]

    loop = []
    for _ in range(4000):
        texts = rng.integers(0, 200, 200)
        by_seed = right[:, texts].mean(1)
        away = by_seed[rng.integers(0, 3, 3)].mean() - by_seed.mean()
        loop.append(by_seed.mean() + away * np.sqrt(3 / 2))
    assert draws.mean() == pytest.approx(np.mean(loop), abs=0.003)
    assert draws.std() == pytest.approx(np.std(loop), rel=0.06)


def test_seeds_are_not_pooled() -> None:
    rng = np.random.default_rng(11)
    gold, answers, _ = seeds_of(300, [0.8, 0.8, 0.8], rng)
    same = np.stack([answers[0]] * 3)

    group = seed_group(
        "g", ["a", "b", "c"], [1, 2, 3], gold, same, 3, resamples=4000, level=0.95, rng=rng
    )
    alone = bca_intervals(
        confusion_counts(gold, answers[0], 3), metrics_from_counts, 4000, 0.95, rng
    )[ACCURACY]

    # Three copies of one run know no more than the one run.
    accuracy = group.metrics["accuracy"]
    assert accuracy.high - accuracy.low == pytest.approx(alone.high - alone.low, rel=0.08)
    assert group.spread["accuracy"] == 0


def test_welch_test_over_seeds_equals_scipys() -> None:
    rng = np.random.default_rng(12)
    gold, one, _ = seeds_of(300, [0.8, 0.82, 0.78], rng)
    two = np.roll(one, 1, axis=1)

    found = seed_t_test(gold, one, two, 3)

    a, b = (one == gold).mean(1), (two == gold).mean(1)
    assert found is not None
    assert found.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert not found.met


def test_seeds_that_agree_on_one_side_are_still_tested() -> None:
    gold = np.zeros(100, np.int8)
    alike = np.stack([np.arange(100) < 10] * 3).astype(np.int8)
    other = np.stack([np.arange(100) < n for n in (20, 24, 28)]).astype(np.int8)

    found = seed_t_test(gold, alike, other, 2)

    # Means 0.90 and 0.76; Welch: 0.14 / sqrt(0.04**2 / 3), two degrees of freedom.
    assert found is not None
    assert found.p == pytest.approx(2 * stats.t.sf(0.14 / np.sqrt(0.04**2 / 3), 2))


def test_a_single_seed_is_said_to_have_no_spread() -> None:
    rng = np.random.default_rng(13)
    gold, one, _ = seeds_of(100, [0.8, 0.7], rng)

    draws = group_draws(gold, one, one[:1], 3, 300, rng)
    found = compare_groups(("a", "b"), gold, one, one[:1], 3, draws=draws, level=0.95)

    assert "single seed" in found.bootstrap.note
    assert found.seed_t_test is None


def rejections(trials: int, n: int, resamples: int, seed: int) -> dict[str, float]:
    """Share of comparisons of two equally good systems that each test rejects at 0.05."""
    rng = np.random.default_rng(seed)
    quick = EvaluationConfig(bootstrap=resamples)
    wrong = dict.fromkeys(("mcnemar", "permutation", "interval", "verdict"), 0)
    for trial in range(trials):
        gold, one, two = pair_of_systems(n, 0.8, 0.8, seed * 1_000_003 + trial)
        found = compare_pair(gold, Answers("a", one), Answers("b", two), NAMES, quick, rng, "f")
        macro = found.differences["macro_f1"]
        wrong["mcnemar"] += found.mcnemar.p < 0.05
        wrong["permutation"] += macro.permutation.p < 0.05
        wrong["interval"] += not macro.interval.low <= 0 <= macro.interval.high
        wrong["verdict"] += outcome_of(found, 0.05) != "not_shown"
    return {name: count / trials for name, count in wrong.items()}


def test_equal_systems_are_told_apart_one_time_in_twenty() -> None:
    shares = rejections(500, n=400, resamples=400, seed=1)

    # Three standard errors of a share of 0.05 in 500 trials are 0.029.
    for name in ("mcnemar", "permutation", "interval"):
        assert shares[name] == pytest.approx(0.05, abs=0.029), name
    assert shares["verdict"] <= shares["mcnemar"]


@pytest.mark.slow
def test_ten_thousand_null_comparisons_reject_five_percent() -> None:
    shares = rejections(10_000, n=1212, resamples=1000, seed=2)

    print(shares)
    for name in ("mcnemar", "permutation", "interval"):
        assert shares[name] == pytest.approx(0.05, abs=0.006), (name, shares)
    assert shares["verdict"] <= 0.056


def test_paired_t_and_wilcoxon_keep_their_level() -> None:
    rng = np.random.default_rng(3)
    found = [paired_tests(rng.normal(0, 1, 60), rng)[:2] for _ in range(1000)]

    for tests in zip(*found, strict=True):
        share = np.mean([test.p < 0.05 for test in tests])
        assert share == pytest.approx(0.05, abs=0.021)


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(14)
    truth = np.array([[0.1, 0.02, 0.01, 0.0], [0.05, 0.5, 0.04, 0.01], [0.02, 0.05, 0.2, 0.0]])
    target = metrics_from_counts(truth[None] * 1e6)[0]
    hits = np.zeros(len(METRICS))
    for _ in range(500):
        counts = rng.multinomial(500, truth.ravel()).reshape(3, 4)
        found = bca_intervals(counts, metrics_from_counts, 500, 0.95, rng)
        hits += [i.low <= t <= i.high for i, t in zip(found, target, strict=True)]

    for name in ("accuracy", "macro_f1", "weighted_f1", "mcc"):
        assert hits[METRICS.index(name)] / 500 == pytest.approx(0.95, abs=0.03), name


def test_intervals_over_seeds_cover_the_truth() -> None:
    rng = np.random.default_rng(15)
    hits = 0
    for _ in range(200):
        gold, answers, _ = seeds_of(200, list(rng.normal(0.7, 0.02, 5)), rng)
        draws = hierarchical_draws(gold, [answers], 3, 400, rng)[0][:, ACCURACY]
        low, high = np.quantile(draws, [0.025, 0.975])
        hits += low <= _expected_accuracy() <= high

    assert hits / 200 == pytest.approx(0.95, abs=0.05)


def _expected_accuracy() -> float:
    # P(0.7 U + 0.3 V < a) with a normal(0.7, 0.02): 1 - (1 - a)^2 / 0.42 for a above 0.7 …
    rng = np.random.default_rng(0)
    a = rng.normal(0.7, 0.02, 1_000_000)
    return float((0.7 * rng.random(1_000_000) + 0.3 * rng.random(1_000_000) < a).mean())


def test_the_number_of_systems_moves_no_others_numbers() -> None:
    gold, one, two = pair_of_systems(300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = compare_pair(
            gold, Answers("a", one), Answers("b", two), NAMES, QUICK, np.random.default_rng(1), "f"
        )
    again = compare_pair(
        gold, Answers("a", one), Answers("b", two), NAMES, QUICK, np.random.default_rng(1), "f"
    )

    assert first == again


@pytest.mark.parametrize("least_p", [0.05, 0.05 / 6])
def test_the_smallest_difference_over_seeds_is_where_the_bootstrap_begins_to_show(
    least_p: float,
) -> None:
    draws = np.random.default_rng(31).normal(0, 0.01, 999)
    least = smallest_shown_by(draws, least_p)
    assert least is not None

    def p(difference: float) -> float:
        moved = draws + difference
        return float(2 * min(1 + (moved <= 0).sum(), 1 + (moved >= 0).sum()) / (1 + len(draws)))

    tiny = 1e-9
    assert max(p(least + tiny), p(-least - tiny)) < least_p
    assert max(p(least - tiny), p(tiny - least)) >= least_p


def test_recipes_shown_apart_make_room_for_the_others_of_their_family() -> None:
    accuracies = [0.80, 0.78, 0.77, 0.76, 0.50, 0.51, 0.40, 0.41]
    gold, answers, _ = seeds_of(400, accuracies, np.random.default_rng(0))
    first = ("a", answers[:2])
    near = (first, ("b", answers[2:4]))
    far = (first, ("c", answers[4:6]))
    farther = (first, ("d", answers[6:8]))
    quick = EvaluationConfig(bootstrap=800)

    alone = compare_family([near], gold, 3, quick)[0]
    beside = compare_family([near, far, farther], gold, 3, quick)
    crowded = compare_family([near, near, near], gold, 3, quick)[0]

    assert [pair.outcome for pair in beside] == ["not_shown", "first_ahead", "first_ahead"]
    # Holm holds the last one to alpha itself: what it could have shown is as if it stood alone.
    assert beside[0].smallest_shown == alone.smallest_shown
    assert (crowded.smallest_shown or 0) > (alone.smallest_shown or 1)


def test_too_few_resamples_to_show_anything_say_so() -> None:
    assert smallest_shown_by(np.zeros(99), 0.05 / 10) is None
