"""Every difference in the tables has a paired interval and a paired test: against scipy's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, precision_score, recall_score

from common.config.run import EvaluationConfig
from common.evaluation.calibration import brier_scores, log_losses, probability_scores
from common.evaluation.comparison import Difference
from common.evaluation.correction import corrected
from common.evaluation.counts import METRICS
from common.evaluation.paired_calibration import Confidence, confidence_of, ece_difference
from common.evaluation.paired_means import mean_differences
from common.evaluation.pairs import Answers, compare_pair
from common.evaluation.scores import probability_text_scores

MANY = EvaluationConfig(bootstrap=9_999)
QUICK = EvaluationConfig(bootstrap=300)
NAMES = ("low", "middle", "high")


def gold_and_probabilities(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gold codes and two systems' probabilities; the second is too sure of itself."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(3, n, p=[0.15, 0.55, 0.3]).astype(np.int8)
    logits = rng.normal(0, 1, (n, 3)) + 1.6 * np.eye(3)[gold]
    other = 2.5 * (0.7 * logits + 0.7 * rng.normal(0, 1, (n, 3)))
    one, two = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (logits, other))
    return gold, one, two


def compared(n: int, settings: EvaluationConfig, seed: int = 0) -> tuple[Answers, Answers]:
    gold, one, two = gold_and_probabilities(n, seed)
    first, second = (
        Answers(
            name,
            chances.argmax(1).astype(np.int8),
            probability_text_scores(gold, chances),
            confidence_of(gold, chances),
        )
        for name, chances in (("a", one), ("b", two))
    )
    return first, second


def assert_same(
    ours: Difference,
    samples: tuple[np.ndarray, ...],
    statistic: Callable[..., float],
    reach: float,
) -> None:
    """Interval and p of scipy, from the single texts: (gold, first, second)."""
    bootstrap = stats.bootstrap(
        samples,
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=999,
        method="BCa",
        rng=np.random.default_rng(1),
    ).confidence_interval
    gold, *answers = samples
    permutation = stats.permutation_test(
        tuple(answers),
        lambda one, two: statistic(gold, one, two),
        permutation_type="samples",
        vectorized=False,
        n_resamples=999,
        rng=np.random.default_rng(2),
    )
    assert ours.interval.value == pytest.approx(statistic(*samples))
    assert ours.interval.low == pytest.approx(bootstrap.low, abs=reach)
    assert ours.interval.high == pytest.approx(bootstrap.high, abs=reach)
    assert ours.permutation.p == pytest.approx(permutation.pvalue, abs=0.045)


@pytest.mark.parametrize("score", ["precision", "recall", "f1"])
def test_differences_of_one_label_equal_scipys(score: str) -> None:
    gold, _, _ = gold_and_probabilities(240)
    first, second = compared(240, MANY)

    pair = compare_pair(gold, first, second, NAMES, MANY, np.random.default_rng(0), "f")

    def of_label(g: np.ndarray, x: np.ndarray) -> float:
        hits = np.sum((g == 0) & (x == 0))
        wanted, said = np.sum(g == 0), np.sum(x == 0)
        below = {"precision": said, "recall": wanted, "f1": (wanted + said) / 2}[score]
        return float(hits / below) if below else 0.0

    assert list(pair.by_label) == list(NAMES)
    judge = {"precision": precision_score, "recall": recall_score, "f1": f1_score}[score]
    assert of_label(gold, first.codes) == pytest.approx(judge(gold == 0, first.codes == 0))
    assert_same(
        pair.by_label["low"][score],
        (gold, first.codes, second.codes),
        lambda g, a, b: of_label(g, a) - of_label(g, b),
        0.02,
    )


def test_a_label_that_no_text_has_is_left_out() -> None:
    gold = np.array([0, 1] * 20, np.int8)
    first, second = Answers("a", gold), Answers("b", np.roll(gold, 1))

    pair = compare_pair(gold, first, second, NAMES, QUICK, np.random.default_rng(0), "f")

    assert list(pair.by_label) == ["low", "middle"]
    assert pair.by_label["low"]["recall"].interval.value == 1.0


def test_the_share_of_unreadable_answers_is_tested_where_there_are_any() -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, 200).astype(np.int8)
    readable = Answers("a", gold)
    mute = Answers("b", np.where(np.arange(200) < 24, 3, gold).astype(np.int8))

    found = compare_pair(gold, mute, readable, NAMES, MANY, rng, "f").differences
    none = compare_pair(gold, readable, readable, NAMES, QUICK, rng, "f").differences

    assert set(none) == set(METRICS) - {"unparseable"}
    unread = found["unparseable"]
    reference = stats.bootstrap(
        ((np.arange(200) < 24).astype(float),),
        np.mean,
        method="BCa",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert unread.interval.value == pytest.approx(0.12)
    assert unread.interval.low == pytest.approx(reference.low, abs=0.006)
    assert unread.interval.high == pytest.approx(reference.high, abs=0.006)
    assert unread.permutation.p == pytest.approx(1 / 10_000)


def scipys_mean(gaps: np.ndarray) -> tuple[Any, float]:
    """The mean's BCa interval and its p value over exchanged signs."""
    interval = stats.bootstrap(
        (gaps,), np.mean, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    flips = stats.permutation_test(
        (gaps, np.zeros_like(gaps)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        rng=np.random.default_rng(2),
    )
    return interval, float(flips.pvalue)


def test_log_loss_and_brier_differences_equal_scipys() -> None:
    gold, one, two = gold_and_probabilities(150)
    gaps = np.stack(
        [
            log_losses(gold, one) - log_losses(gold, two),
            brier_scores(gold, one) - brier_scores(gold, two),
        ],
        axis=1,
    )

    found = mean_differences(gaps, MANY, np.random.default_rng(0))

    for column, ours in zip(gaps.T, found, strict=True):
        reference, p = scipys_mean(column)
        wide = reference.high - reference.low
        assert ours.interval.value == pytest.approx(column.mean())
        assert ours.interval.low == pytest.approx(reference.low, abs=0.03 * wide)
        assert ours.interval.high == pytest.approx(reference.high, abs=0.03 * wide)
        assert ours.permutation.p == pytest.approx(p, abs=0.02)


@pytest.mark.parametrize("values", [[0.0, 1.0, -1.0], [0.0, 0.5, -1.0, 0.25]])
def test_scores_of_few_values_equal_scipys(values: list[float]) -> None:
    gaps = np.random.default_rng(3).choice(values, 60)

    (ours,) = mean_differences(gaps[:, None], MANY, np.random.default_rng(0))

    reference, p = scipys_mean(gaps)
    assert ours.interval.low == pytest.approx(reference.low, abs=0.02)
    assert ours.interval.high == pytest.approx(reference.high, abs=0.02)
    assert ours.permutation.p == pytest.approx(p, abs=0.02)


def test_many_texts_are_resampled_in_cells_with_the_same_result() -> None:
    # Skewed, heavy-tailed: what a cell of equal width holds differs most.
    rng = np.random.default_rng(5)
    gaps = rng.exponential(1.0, 20_000) ** 1.5 - 1.31

    (ours,) = mean_differences(gaps[:, None], MANY, np.random.default_rng(0))

    draws = np.array([gaps[rng.integers(0, 20_000, 20_000)].mean() for _ in range(3_000)])
    low, high = np.quantile(draws, [0.025, 0.975])
    flips = np.abs([(rng.choice([-1, 1], 20_000) * gaps).mean() for _ in range(2_000)])
    assert ours.interval.low == pytest.approx(low, abs=0.05 * (high - low))
    assert ours.interval.high == pytest.approx(high, abs=0.05 * (high - low))
    assert ours.permutation.p == pytest.approx((flips >= abs(gaps.mean())).mean(), abs=0.035)
    assert ours.share_above_zero == pytest.approx((draws > 0).mean(), abs=0.035)


def ece(gold: np.ndarray, sure: np.ndarray, right: np.ndarray) -> float:
    """Naeini et al.'s sum, bin by bin; `gold` is not needed."""
    found = 0.0
    for low in np.arange(15) / 15:
        inside = (sure > low + 1e-12) & (sure <= low + 1 / 15 + 1e-12)
        found += abs(right[inside].sum() - sure[inside].sum()) / len(sure)
    return found


def test_the_difference_of_two_calibration_errors_equals_brute_force() -> None:
    n = 250
    gold, one, two = gold_and_probabilities(n, seed=4)
    first, second = confidence_of(gold, one), confidence_of(gold, two)

    ours = ece_difference(first, second, MANY, np.random.default_rng(0))

    assert ours is not None
    value = ece(gold, first.sure, first.right) - ece(gold, second.sure, second.right)
    assert ours.interval.value == pytest.approx(value)
    rows = np.stack([first.sure, first.right, second.sure, second.right], axis=1)

    def difference(i: np.ndarray) -> float:
        return ece(i, rows[i, 0], rows[i, 1]) - ece(i, rows[i, 2], rows[i, 3])

    reference = stats.bootstrap(
        (np.arange(n),),
        lambda i: difference(i.astype(int)),
        vectorized=False,
        n_resamples=1_500,
        method="BCa",
        rng=np.random.default_rng(1),
    ).confidence_interval
    rng = np.random.default_rng(2)
    swapped = []
    for _ in range(1_500):
        swap = rng.random(n) < 0.5
        a, b = np.where(swap[:, None], rows[:, 2:], rows[:, :2]), None
        b = np.where(swap[:, None], rows[:, :2], rows[:, 2:])
        swapped.append(ece(gold, a[:, 0], a[:, 1]) - ece(gold, b[:, 0], b[:, 1]))
    p = (1 + (np.abs(swapped) >= abs(value) - 1e-12).sum()) / 1_501
    wide = reference.high - reference.low
    assert ours.interval.low == pytest.approx(reference.low, abs=0.08 * wide)
    assert ours.interval.high == pytest.approx(reference.high, abs=0.08 * wide)
    assert ours.permutation.p == pytest.approx(p, abs=0.04)


def test_calibration_is_compared_on_texts_that_both_gave_probabilities_for() -> None:
    gold, one, two = gold_and_probabilities(200)
    partly = one.copy()
    partly[120:] = np.nan

    found = ece_difference(
        confidence_of(gold, partly), confidence_of(gold, two), QUICK, np.random.default_rng(0)
    )
    alone = [
        probability_scores(
            gold[:120], p[:120], bins=15, resamples=200, level=0.95, rng=np.random.default_rng(0)
        )
        for p in (one, two)
    ]
    nothing = Confidence(np.full(200, np.nan), np.zeros(200, bool))

    assert found is not None
    assert alone[0] is not None
    assert alone[1] is not None
    assert found.interval.value == pytest.approx(alone[0].ece.value - alone[1].ece.value)
    assert (
        ece_difference(nothing, confidence_of(gold, two), QUICK, np.random.default_rng(0)) is None
    )


def test_accuracy_is_compared_on_each_part() -> None:
    gold, _, _ = gold_and_probabilities(300)
    first, second = compared(300, MANY)
    part = np.arange(300) < 90

    pair = compare_pair(
        gold, first, second, NAMES, MANY, np.random.default_rng(0), "f", {"easy": part}
    )
    alone = compare_pair(
        gold[part],
        Answers("a", first.codes[part]),
        Answers("b", second.codes[part]),
        NAMES,
        MANY,
        np.random.default_rng(1),
        "f",
    ).differences["accuracy"]

    ours = pair.parts["easy"]
    assert ours.interval.value == pytest.approx(alone.interval.value)
    assert ours.interval.low == pytest.approx(alone.interval.low, abs=0.012)
    assert ours.interval.high == pytest.approx(alone.interval.high, abs=0.012)
    assert ours.permutation.p == pytest.approx(alone.permutation.p, abs=0.02)


def test_each_test_is_a_family_of_its_own() -> None:
    """More tests in a pair widen nobody's correction: Holm goes over pairs, test by test."""
    gold, _, _ = gold_and_probabilities(150)
    first, second = compared(150, QUICK)
    _, third = compared(150, QUICK, seed=7)
    bare = Answers("a", first.codes), Answers("b", second.codes)

    def family(
        one: Answers, two: Answers, part: dict[str, np.ndarray]
    ) -> list[dict[str, float | None]]:
        rng = np.random.default_rng
        pairs = [
            compare_pair(gold, one, two, NAMES, QUICK, rng(0), "f", part),
            compare_pair(gold, one, Answers("c", third.codes), NAMES, QUICK, rng(1), "f"),
        ]
        return [
            {
                "mcnemar": pair.mcnemar.p_holm,
                **{name: found.permutation.p_holm for name, found in pair.differences.items()},
                **{
                    f"{label} {name}": found.permutation.p_holm
                    for label, table in pair.by_label.items()
                    for name, found in table.items()
                },
                **{name: found.permutation.p_holm for name, found in pair.parts.items()},
                **{test.score: test.resampled.permutation.p_holm for test in pair.scores},
                **{f"{test.score} t": test.t_test.p_holm for test in pair.scores},
            }
            for pair in corrected(pairs, 0.05)
        ]

    rich, poor = family(first, second, {"easy": np.arange(150) < 60}), family(bare[0], bare[1], {})

    assert all(p is not None for row in rich for p in row.values())
    for with_more, with_less in zip(rich, poor, strict=True):
        assert with_less.items() <= with_more.items()
    assert {"ece", "negative_log_loss", "low f1", "easy"} <= rich[0].keys()


def test_equal_probabilities_make_no_difference() -> None:
    gold, one, _ = gold_and_probabilities(80)
    same = confidence_of(gold, one)

    found = ece_difference(same, same, QUICK, np.random.default_rng(0))

    assert found is not None
    assert (found.interval.low, found.interval.value, found.interval.high) == (0, 0, 0)
    assert found.permutation.p == 1.0
