"""What a system's predictions are worth: metrics, intervals, joining, subsets."""

import numpy as np
import pytest
from sklearn import metrics as sk

from common.config.run import EvaluationConfig
from common.errors import InputError
from common.evaluation.calibration import brier_scores, log_losses, probability_scores
from common.evaluation.counts import METRICS, confusion_counts, label_codes, metrics_from_counts
from common.evaluation.evaluate import constant_predictions, evaluate_system, read_leniently
from common.records import EvaluationReport, Example, Prediction, SystemCard
from common.task import load_task

TASK = load_task("sentiment")
NAMES = TASK.label_names
QUICK = EvaluationConfig(bootstrap=500)
CARD = SystemCard(name="s", role="student", title="S")


def simulated(n: int, accuracy: float = 0.8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    gold = rng.choice(3, n, p=[0.12, 0.6, 0.28]).astype(np.int8)
    other = rng.integers(0, 4, n)
    return gold, np.where(rng.random(n) < accuracy, gold, other).astype(np.int8)


def judged(golds: list[str], answers: list[str | None]) -> EvaluationReport:
    gold = [Example(id=str(i), text=f"text {i}", label=x) for i, x in enumerate(golds)]
    said = [Prediction(example_id=str(i), label=x) for i, x in enumerate(answers)]
    return evaluate_system(CARD, gold, said, TASK, QUICK, "toy", "0" * 64)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_scikit_learn(seed: int) -> None:
    gold, answers = simulated(400, 0.7, seed)

    found = dict(zip(METRICS, metrics_from_counts(confusion_counts(gold, answers, 3)), strict=True))

    for average in ("macro", "weighted"):
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            gold, answers, labels=[0, 1, 2], average=average, zero_division=0
        )
        assert found[f"{average}_precision"] == pytest.approx(precision)
        assert found[f"{average}_recall"] == pytest.approx(recall)
        assert found[f"{average}_f1"] == pytest.approx(f1)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(gold, answers))
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(gold, answers))
    assert found["unparseable"] == pytest.approx((answers == 3).mean())


def test_always_the_majority_has_the_metrics_of_the_constant_answer() -> None:
    golds = ["neutral"] * 6 + ["positive"] * 3 + ["negative"]
    gold = [Example(id=str(i), text="t", label=x) for i, x in enumerate(golds)]

    report = evaluate_system(
        CARD, gold, constant_predictions(gold, "neutral"), TASK, QUICK, "toy", "0" * 64
    )

    # F1 of neutral = 2 * 0.6 * 1 / 1.6 = 0.75; macro 0.75 / 3; weighted 0.6 * 0.75
    assert report.metrics["accuracy"].value == pytest.approx(0.6)
    assert report.metrics["macro_f1"].value == pytest.approx(0.25)
    assert report.metrics["weighted_f1"].value == pytest.approx(0.45)
    assert report.metrics["mcc"].value == 0


def test_unparseable_answers_are_wrong_and_counted() -> None:
    report = judged(
        ["positive", "neutral", "negative", "neutral"], ["positive", None, None, "neutral"]
    )

    assert report.metrics["accuracy"].value == 0.5
    assert report.unparseable == 2
    assert [row[-1] for row in report.confusion] == [1, 1, 0]


def test_a_label_without_gold_texts_does_not_enter_the_macro_mean() -> None:
    report = judged(["positive", "positive", "neutral"], ["positive", "positive", "neutral"])

    assert report.metrics["macro_f1"].value == 1.0


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["0"], "no prediction for 1"),
        (["0", "1", "1"], "more than one prediction for 1"),
        (["0", "1", "2"], "predictions for unknown 1"),
    ],
)
def test_predictions_that_do_not_match_the_texts_are_refused(ids: list[str], message: str) -> None:
    gold = [Example(id=str(i), text="t", label="neutral") for i in range(2)]
    said = [Prediction(example_id=i, label="neutral") for i in ids]

    with pytest.raises(InputError, match=message):
        evaluate_system(CARD, gold, said, TASK, QUICK, "toy", "0" * 64)


def test_gold_without_label_is_refused() -> None:
    with pytest.raises(InputError, match="no gold label"):
        evaluate_system(
            CARD,
            [Example(id="a", text="t")],
            [Prediction(example_id="a", label="neutral")],
            TASK,
            QUICK,
            "toy",
            "0" * 64,
        )


def test_a_label_of_another_task_is_refused() -> None:
    with pytest.raises(InputError, match="hawkish"):
        label_codes(["hawkish"], NAMES)


def test_order_of_predictions_does_not_matter() -> None:
    gold = [Example(id=str(i), text="t", label=NAMES[i % 3]) for i in range(30)]
    said = [Prediction(example_id=str(i), label=NAMES[i * 7 % 3]) for i in range(30)]

    one = evaluate_system(CARD, gold, said, TASK, QUICK, "toy", "0" * 64)
    two = evaluate_system(CARD, gold, said[::-1], TASK, QUICK, "toy", "0" * 64)

    assert one == two


def test_subsets_by_agreement_and_without_near_duplicates() -> None:
    gold = [
        Example(id=str(i), text="t", label="neutral", meta={"agreement": 100 if i < 6 else 50})
        for i in range(10)
    ]
    said = [Prediction(example_id=str(i), label="neutral" if i < 7 else None) for i in range(10)]

    report = evaluate_system(
        CARD, gold, said, TASK, QUICK, "toy", "0" * 64, near_duplicates={"7", "8", "9"}
    )

    assert list(report.subsets) == ["agreement_50", "agreement_100", "without_near_duplicates"]
    assert report.subsets["agreement_100"].metrics["accuracy"].value == 1.0
    assert report.subsets["agreement_50"].metrics["accuracy"].value == 0.25
    assert report.subsets["without_near_duplicates"].n == 7
    assert report.subsets["without_near_duplicates"].metrics["accuracy"].value == 1.0


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("not positive", "positive"),
        ("negative or positive", "positive"),
        ("Negative.", "negative"),
        ("no idea", "neutral"),
        ("", "neutral"),
    ],
)
def test_lenient_reading_is_fingpts(text: str, label: str) -> None:
    assert TASK.lenient_reading is not None

    assert read_leniently(text, TASK.lenient_reading) == label


def test_lenient_reading_stands_beside_the_strict_one() -> None:
    gold = [Example(id=str(i), text="t", label=x) for i, x in enumerate(["neutral", "positive"])]
    said = [
        Prediction(example_id="0", label=None, raw="hard to say"),
        Prediction(example_id="1", label="positive", raw="positive"),
    ]

    report = evaluate_system(CARD, gold, said, TASK, QUICK, "toy", "0" * 64)

    assert report.metrics["accuracy"].value == 0.5
    assert report.lenient is not None
    assert report.lenient.metrics["accuracy"].value == 1.0


def test_log_loss_and_brier_equal_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    gold = rng.integers(0, 3, 200).astype(np.int8)
    probabilities = rng.dirichlet([1, 1, 1], 200)

    assert log_losses(gold, probabilities).mean() == pytest.approx(
        sk.log_loss(gold, probabilities, labels=[0, 1, 2])
    )
    assert brier_scores(gold, probabilities).mean() == pytest.approx(
        sk.brier_score_loss(gold, probabilities, labels=[0, 1, 2])
    )


def test_calibration_error_by_hand() -> None:
    # Ten texts said with 0.8, of which 6 right; ten with 0.6, of which 7 right.
    gold = np.zeros(20, np.int8)
    probabilities = np.array(
        [[0.8, 0.2]] * 6 + [[0.2, 0.8]] * 4 + [[0.6, 0.4]] * 7 + [[0.4, 0.6]] * 3
    )

    scores = probability_scores(
        gold, probabilities, bins=10, resamples=200, level=0.95, rng=np.random.default_rng(0)
    )

    assert scores is not None
    assert scores.ece.value == pytest.approx(0.5 * 0.2 + 0.5 * 0.1)
    assert [b.n for b in scores.reliability] == [10, 10]
    halfway = next(p for p in scores.coverage if p.coverage == 0.5)
    assert halfway.accuracy == pytest.approx(0.6)
    assert scores.coverage[-1].accuracy == pytest.approx(0.65)


@pytest.mark.parametrize(
    "chances",
    [{"neutral": 0.5}, {"neutral": 1.5, "positive": -0.5}, {"neutral": float("nan")}],
)
def test_probabilities_that_are_none_are_refused(chances: dict[str, float]) -> None:
    gold = [Example(id="0", text="t", label="neutral")]
    said = [Prediction(example_id="0", label="neutral", probabilities=chances)]

    with pytest.raises(InputError, match="sum to 1"):
        evaluate_system(CARD, gold, said, TASK, QUICK, "toy", "0" * 64)
