"""What a training tells while it runs and when it has ended. Light: no torch here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from common.records import Record


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """
    State after one optimizer step. Losses are those of this step, None for a term that is not in it
    (while a student copies texts the copy is in `loss` alone); times in seconds. `notes`: what
    happened on the way that somebody should know (a halved micro-batch), oldest first.
    """

    step: int
    total_steps: int
    epoch: float
    loss: float
    label_loss: float | None
    rationale_loss: float | None
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    elapsed_seconds: float
    eta_seconds: float
    validation: dict[str, float] | None = None
    notes: list[str] = field(default_factory=list)


def _silent(progress: TrainingProgress) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class TrainingHooks:
    """How the caller watches a training (`progress`) and stops it (`cancelled`), each step."""

    progress: Callable[[TrainingProgress], None] = _silent
    cancelled: Callable[[], bool] = _never


class TrainingSummary(Record):
    """
    How a training went. `seconds` counts this and all resumed parts; `tokens_seen` counts
    every token that went through the model, `history` holds what was logged, oldest first.
    `rationales`: how many training texts had one to learn (None: not counted by that version).
    """

    steps: int
    seconds: float
    examples_seen: int
    tokens_seen: int
    parameters: int
    trainable_parameters: int
    best_validation: dict[str, float] | None = None
    best_step: int | None = None
    history: list[dict[str, Any]] = Field(default_factory=list)
    peak_memory_bytes: int
    micro_batch_size: int
    stopped_early: bool = False
    tiny: bool = False
    rationales: int | None = None
    notes: list[str] = Field(default_factory=list)
