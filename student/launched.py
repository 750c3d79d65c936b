"""One of several processes that share a training: `python -m student.launched ROOM`."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from common.errors import FinstillError, JobCancelled
from student.devices import Order
from student.progress import TrainingHooks, TrainingProgress
from student.starter import end_with_starter
from student.train import train_student


def main(room: Path) -> None:
    """Train as `room`/order.json says, while stdin is open. Only the first process reports."""
    end_with_starter(sys.stdin.fileno())
    order = Order.model_validate_json((room / "order.json").read_text(encoding="utf-8"))
    first = os.environ.get("RANK", "0") == "0"

    def progress(state: TrainingProgress) -> None:
        if first:
            with (room / "progress.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(state)) + "\n")

    hooks = TrainingHooks(progress=progress, cancelled=(room / "cancel").exists)
    try:
        train_student(
            student=order.student, training=order.training, task=order.task, train=order.train,
            validation=order.validation, folder=order.folder, hooks=hooks, threads=order.threads,
        )  # fmt: skip
    except FinstillError as error:
        if first or not isinstance(error, JobCancelled):
            (room / "failure.json").write_text(json.dumps([type(error).__name__, str(error)]))
        if not isinstance(error, JobCancelled):
            raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
