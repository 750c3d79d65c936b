"""What a training remembers beside the weights: counts, history, the best step, early stopping."""

import json
import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from student.checkpoint import LEDGER

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Ledger:
    """
    Saved with every checkpoint, so that a resumed training goes on counting.

    The best evaluation has the highest validation accuracy, of equals the lowest label loss. An
    evaluation counts as stale when neither improved by `min_improvement`. `saved_step`: of the
    newest checkpoint; `proven_step`: of the newest from which a step went well.
    """

    micro_batch_size: int
    examples_seen: int = 0
    tokens_seen: int = 0
    seconds: float = 0.0
    best: dict[str, float] | None = None
    best_step: int | None = None
    lowest_loss: float = math.inf
    stale: int = 0
    stopped_early: bool = False
    smooth_loss: float | None = None
    smallest_loss: float = math.inf
    steps_above: int = 0
    saved_step: int | None = None
    proven_step: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, sentence: str, level: int = logging.WARNING) -> None:
        """Say it now, with each step's progress, in the summary and in the system's report."""
        self.notes.append(sentence)
        logger.log(level, "training: %s", sentence)

    def copied(self, steps: int) -> None:
        """Copying is over: other losses follow, which nothing so far says anything about."""
        losses = [entry["copy_loss"] for entry in self.history if "copy_loss" in entry]
        last = f"; the copy's last loss was {losses[-1]:.2f} nats a token" if losses else ""
        self.note(f"copied its texts first (steps: {steps}){last}", logging.INFO)
        self.smooth_loss, self.smallest_loss, self.steps_above = None, math.inf, 0

    def record_evaluation(
        self, metrics: dict[str, float], step: int, min_improvement: float
    ) -> bool:
        """Take in an evaluation; True if it is the best so far."""
        accuracy, loss = metrics["accuracy"], metrics["label_loss"]
        best = self.best["accuracy"] if self.best else -math.inf
        better = accuracy >= best + min_improvement or loss <= self.lowest_loss - min_improvement
        self.stale = 0 if better else self.stale + 1
        is_best = self.best is None or (accuracy, -loss) > (best, -self.best["label_loss"])
        self.lowest_loss = min(self.lowest_loss, loss)
        if is_best:
            self.best, self.best_step = dict(metrics), step
        return is_best

    def explodes(self, loss: float) -> bool:
        """
        Whether the loss has run away: five steps in a row above ten times the lowest running mean
        and at least 5 nats over it. A single bad batch is no explosion.
        """
        previous = self.smooth_loss
        self.smooth_loss = loss if previous is None else 0.9 * previous + 0.1 * loss
        limit = max(10 * self.smallest_loss, self.smallest_loss + 5)
        self.steps_above = self.steps_above + 1 if loss > limit else 0
        self.smallest_loss = min(self.smallest_loss, self.smooth_loss)
        return self.steps_above >= 5

    def save(self, folder: Path) -> None:
        """Write into a checkpoint."""
        (folder / LEDGER).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Ledger":
        """Read from a checkpoint."""
        return cls(**json.loads((folder / LEDGER).read_text(encoding="utf-8")))
