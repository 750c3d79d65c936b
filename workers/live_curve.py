"""A training's curve while it is drawn: on disk step by step, for pages of any process."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from student.progress import TrainingProgress

LEAST_SECONDS = 0.5
SHARE = 1 / 500  # of the time so far: a long training has a point for every minute, not second


class LiveCurve:
    """
    Appends a JSON line with the figures of a step to `path`, at most every half second.

    A training that goes on from a checkpoint takes back the lines of steps it does again.
    """

    def __init__(self, path: Path):
        self._path = path
        self._begun = self._last = 0.0
        self._judged: dict[str, float] | None = None

    def add(self, now: "TrainingProgress") -> None:
        """Take in a step; one with a new validation is always written."""
        passed = time.monotonic() - self._last
        if not self._begun:
            self._begin(now.step)
        elif now.validation == self._judged and passed < self._pause():
            return
        row: dict[str, Any] = {"step": now.step, "loss": now.loss, "grad_norm": now.gradient_norm}
        terms = {"label_loss": now.label_loss, "rationale_loss": now.rationale_loss}
        row |= {name: value for name, value in terms.items() if value is not None}
        if now.validation != self._judged:
            row |= {f"eval_{name}": value for name, value in (now.validation or {}).items()}
            self._judged = now.validation
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        self._last = time.monotonic()

    def end(self) -> None:
        """The finished training's summary tells it all."""
        self._path.unlink(missing_ok=True)

    def _begin(self, step: int) -> None:
        self._begun = time.monotonic()
        kept = [row for row in read_curve(self._path) if row["step"] < step]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in kept)
        self._path.write_text(text, encoding="utf-8")

    def _pause(self) -> float:
        return max(LEAST_SECONDS, SHARE * (time.monotonic() - self._begun))


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The steps written so far; a line that is being written or was cut off is passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
