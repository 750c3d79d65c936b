"""A stated confidence becomes a soft label, and training listens to it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from common.config.student import StudentConfig
from common.config.training import SoftLabels, TrainingConfig
from common.records import TrainingPair
from common.task import TaskDefinition
from student.confidence import soften
from student.predict import Predictor
from student.train import train_student

LABELS = ["negative", "neutral", "positive"]
FROM_CONFIDENCE = SoftLabels(share=1.0, from_confidence=True)


def pair(**more: object) -> TrainingPair:
    values = {"example_id": "a", "text": "Fir Docks sold a crane.", "label": "neutral", **more}
    return TrainingPair.model_validate(values)


def test_the_rest_of_the_confidence_is_shared_by_the_other_labels() -> None:
    (softened,) = soften([pair(confidence=0.7)], FROM_CONFIDENCE, LABELS)

    assert softened.probabilities == pytest.approx(
        {"negative": 0.15, "neutral": 0.7, "positive": 0.15}
    )
    assert softened.label == "neutral"


def test_a_confidence_below_chance_does_not_turn_the_label_round() -> None:
    (softened,) = soften([pair(confidence=0.1)], FROM_CONFIDENCE, LABELS)

    assert softened.probabilities == pytest.approx(dict.fromkeys(LABELS, 1 / 3))


@pytest.mark.parametrize(
    "unchanged",
    [
        pair(),
        pair(confidence=0.6, probabilities={"negative": 0.2, "neutral": 0.8, "positive": 0.0}),
    ],
)
def test_pairs_with_probabilities_or_without_confidence_stay_as_they_are(
    unchanged: TrainingPair,
) -> None:
    assert soften([unchanged], FROM_CONFIDENCE, LABELS) == [unchanged]


@pytest.mark.parametrize("soft", [None, SoftLabels(share=1.0)])
def test_confidence_is_left_alone_unless_asked_for(soft: SoftLabels | None) -> None:
    pairs = [pair(confidence=0.7)]

    assert soften(pairs, soft, LABELS) == pairs


def test_a_student_of_an_unsure_teacher_is_less_sure(
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    make_pairs: Callable[[int], list[TrainingPair]],
    tmp_path: Path,
) -> None:
    texts = [p.text for p in make_pairs(20)]

    def highest(confidence: float) -> float:
        pairs = [p.model_copy(update={"confidence": confidence}) for p in make_pairs(20)]
        folder = tmp_path / str(confidence)
        train_student(
            student=tiny("seq2seq", "t5", dropout=0.0),
            training=TrainingConfig(
                rationale_weight=0, epochs=60, batch_size=20, learning_rate=5e-3, seed=3,
                soft_labels=FROM_CONFIDENCE,
            ),
            task=task,
            train=pairs,
            validation=[],
            folder=folder,
        )  # fmt: skip
        rows = Predictor.load(folder / "model").predict(texts)
        return sum(max(row.probabilities.values()) for row in rows) / len(rows)

    sure, unsure = highest(1.0), highest(0.6)
    assert sure > 0.8
    assert unsure == pytest.approx(0.6, abs=0.1)
