"""What the Hugging Face Trainer is told of a training."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainingArguments

from common.config.training import TrainingConfig
from student.defaults import Hyperparameters
from student.encoding import EncodedExample


def steps_of(epochs: float, training: TrainingConfig, examples: Sequence[EncodedExample]) -> int:
    """Optimizer steps of so many epochs; at least one."""
    per_epoch = -(-len(examples) // training.batch_size)
    return max(1, round(epochs * per_epoch))


def _steps(training: TrainingConfig, examples: Sequence[EncodedExample]) -> int:
    if training.max_steps:
        return training.max_steps
    epochs = training.epochs
    if training.max_tokens:
        epochs = training.max_tokens / sum(e.length for e in examples)
    return steps_of(epochs, training, examples)


def training_arguments(
    training: TrainingConfig,
    chosen: Hyperparameters,
    folder: Path,
    examples: Sequence[EncodedExample],
    *,
    evaluate: bool,
    copied: int = 0,
) -> TrainingArguments:
    """
    A config with its defaults filled in (`chosen`), in the Trainer's words; `copied` steps come
    before those it counts.
    """
    on_gpu = torch.cuda.is_available()
    steps = _steps(training, examples)
    every = -(-steps // training.evaluations) if training.evaluations and evaluate else 0
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=max(1, training.batch_size // devices),
        max_steps=copied + steps,
        learning_rate=chosen.learning_rate,
        lr_scheduler_type="constant_with_warmup"
        if chosen.schedule == "constant" and chosen.warmup_share
        else chosen.schedule,
        warmup_steps=round(chosen.warmup_share * steps),
        weight_decay=chosen.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim="paged_adamw_8bit"
        if on_gpu and chosen.optimizer == "paged_adamw_8bit"
        else "adamw_torch_fused",
        bf16=training.precision == "bf16",
        use_cpu=not on_gpu,
        seed=training.seed or 0,
        data_seed=training.seed or 0,
        logging_steps=max(1, steps // 100),
        logging_nan_inf_filter=False,
        eval_strategy="steps" if every else "no",
        eval_steps=every or None,
        save_strategy="steps",
        save_steps=training.checkpoint_every_steps,
        report_to="none",  # ours are callbacks: student/reporters.py
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
