"""
Steps before the others in which a seq2seq student writes out the text it reads.

Sequence autoencoding (Dai and Le 2015): a decoder made of an encoder has a cross-attention that has
never looked at anything, and a few thousand rationales do not teach it to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import SequentialLR
from transformers import get_scheduler

from common.config.training import TrainingConfig
from student.arguments import steps_of
from student.encoding import EncodedExample


@dataclass(frozen=True, slots=True)
class CopyingPlan:
    """How many optimizer steps, how many of them warm up, and whether the encoder learns."""

    steps: int = 0
    warmup: int = 0
    encoder_rests: bool = False

    def due(self, step: int, every: float | None, last: int) -> bool:
        """Whether to evaluate after `step`: counted from the end of copying, and at the end."""
        taught = step - self.steps
        return bool(every) and taught > 0 and (taught % int(every or 1) == 0 or step == last)


def copying_plan(
    training: TrainingConfig, examples: Sequence[EncodedExample], warmup_share: float
) -> CopyingPlan:
    """The plan of a config; no steps at all where it asks for none."""
    if training.copying is None:
        return CopyingPlan()
    steps = steps_of(training.copying.epochs, training, examples)
    return CopyingPlan(steps, round(warmup_share * steps), training.copying.encoder == "rests")


def two_schedules(
    kind: Any, optimizer: torch.optim.Optimizer, plan: CopyingPlan, warmup: int, steps: int
) -> SequentialLR:
    """A schedule over the plan's steps, then one with `warmup` over the `steps` that follow."""
    parts = ((plan.warmup, plan.steps), (warmup, steps))
    return SequentialLR(
        optimizer,
        [get_scheduler(kind, optimizer, first, count) for first, count in parts],
        milestones=[plan.steps],
    )
