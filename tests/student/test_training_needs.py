"""What a config needs on a GPU counts the whole job: training, and judging what was trained."""

import pytest

from benchmarks.training_needs import FLOPS, TEXTS, needs
from common.config import load_config
from common.config.student import StudentConfig
from common.config.training import Copying, TrainingConfig
from common.task import CONFIGS


@pytest.fixture
def system() -> tuple[StudentConfig, TrainingConfig]:
    """An adapter for Llama 3.1 8B, trained in bf16."""
    config = load_config(CONFIGS / "fpb" / "lora-fingpt.yaml")
    student, training = config.trained_systems["published-gold"]
    assert (student.quantization, training.precision) == (None, "bf16")
    return student, training


def test_a_bf16_adapter_is_judged_in_the_memory_of_its_training(
    system: tuple[StudentConfig, TrainingConfig],
) -> None:
    student, training = system

    found = needs(student, training)
    in_float32 = needs(student.model_copy(update={"lora": None}), training).weights

    assert found.weights < found.prediction < found.total < 18e9
    assert in_float32 == pytest.approx(32.1e9, rel=0.01)  # 4 bytes for 8.03e9 weights
    assert in_float32 > found.total


def test_where_judging_takes_more_than_training_a_student_needs_that(
    system: tuple[StudentConfig, TrainingConfig],
) -> None:
    student, training = system
    # Gold has no reasons to write.
    small = {"micro_batch_size": 1, "gradient_checkpointing": True, "labels": "teacher"}

    found = needs(student, training.model_copy(update={**small, "rationale_weight": 1.0}))

    # 32 texts of 171 + 40 tokens and more, each token with 32 layers x 2 x 1,024 values of 2 bytes.
    assert found.prediction > found.weights + 1e9 + 32 * 211 * 32 * 2 * 1024 * 2
    assert found.total == found.prediction


def test_a_copy_is_counted_as_written_beside_labels_alone_too() -> None:
    config = load_config(CONFIGS / "fpb" / "flan-t5-small.yaml")
    student, silent = config.trained_systems["label-only"]
    copying = silent.model_copy(update={"copying": Copying(epochs=2)})

    plain, found = needs(student, silent), needs(student, copying)

    # Per copy two prompts of 33 + 3 tokens, the text's 33 + 4 and the label's 4; 44 M weights
    # beside the two tables, six operations for each.
    seconds = 2 * TEXTS * (2 * 36 + 37 + 4) * (plain.parameters - 2 * 32128 * 512) * 6 / FLOPS
    assert found.seconds - plain.seconds > seconds
    assert found.total > plain.total
