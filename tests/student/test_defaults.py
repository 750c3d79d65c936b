"""What a student is trained with where its config says nothing."""

import pytest

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from student.defaults import hyperparameters


def student(**more: object) -> StudentConfig:
    return StudentConfig.model_validate({"architecture": "causal", "model": "some/llama", **more})


def test_four_bit_lora_starts_from_qloras_settings() -> None:
    config = student(lora={}, quantization="nf4")
    assert config.lora is not None
    assert (config.lora.rank, config.lora.alpha, config.lora.dropout) == (16, 32, 0.1)
    assert config.lora.targets == "all-linear"

    training = TrainingConfig()
    chosen = hyperparameters(config, training)

    assert (training.batch_size, training.max_grad_norm) == (32, 1.0)
    assert (chosen.learning_rate, chosen.warmup_share, chosen.schedule) == (2e-4, 0.03, "cosine")
    assert chosen.optimizer == "paged_adamw_8bit"
    assert chosen.gradient_checkpointing


@pytest.mark.parametrize("quantization", [None, "nf4"])
@pytest.mark.parametrize("asked", [None, False, True])
def test_activations_are_computed_twice_in_four_bit_training_or_where_asked(
    quantization: str | None, asked: bool | None
) -> None:
    config = student(lora={}, quantization=quantization)

    chosen = hyperparameters(config, TrainingConfig(gradient_checkpointing=asked))

    assert chosen.gradient_checkpointing is (quantization is not None if asked is None else asked)


def test_what_a_config_says_wins_over_the_default() -> None:
    training = TrainingConfig(learning_rate=1e-3, warmup_share=0.0, weight_decay=0.5)

    chosen = hyperparameters(student(), training)

    assert (chosen.learning_rate, chosen.warmup_share, chosen.weight_decay) == (1e-3, 0.0, 0.5)
    assert chosen.schedule == hyperparameters(student(), TrainingConfig()).schedule


@pytest.mark.parametrize(("signal", "at_once"), [("prefix", 16), ("decoder", 32)])
def test_a_seq2seq_student_encodes_thirty_two_texts_at_once(signal: str, at_once: int) -> None:
    config = student(architecture="seq2seq", task_signal=signal)

    assert hyperparameters(config, TrainingConfig()).micro_batch_size == at_once
