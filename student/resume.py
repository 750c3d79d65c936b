"""How checkpoints are written and read: aside first, and without pickle."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import Trainer

from student.checkpoint import (
    MANIFEST,
    OPTIMIZER,
    last_good,
    list_files,
    load_trained,
    prune,
    publish,
    room_for,
    save_trained,
)
from student.ledger import Ledger
from student.state_file import read_state, write_state
from student.steps import random_state, restore_random_state


class SafetensorsTrainer(Trainer):
    """
    The Trainer, with weights, optimizer, schedule and random states in safetensors files.

    A checkpoint is written aside, with the ledger and the manifest, and then renamed. The best and
    the last one stay, and the one before until a step from the last has shown that its weights
    work: a loss that explodes is known some steps later. Whoever makes one sets the attributes
    below first.
    """

    student: nn.Module
    root: Path
    ledger: Ledger
    manifest: str
    _clock: float

    def elapsed_seconds(self) -> float:
        """Seconds of training, those before a resume included."""
        return self.ledger.seconds + time.monotonic() - self._clock

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.root / ".writing")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            save_trained(self.student, Path(output_dir or self.root))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.student, Path(resume_from_checkpoint))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        root = self.root
        now = time.monotonic()
        self.ledger.seconds += now - self._clock
        self._clock = now
        self.ledger.saved_step = self.state.global_step
        with room_for(root / name):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes its random state
            if not self.args.should_save:
                return
            staging = root / ".writing" / name
            self.ledger.save(staging)
            (staging / MANIFEST).write_text(self.manifest, encoding="utf-8")
            list_files(staging)
        publish(staging, root / name)
        self._prune(self.state.global_step)

    def _prune(self, *more: int) -> None:
        if self.args.should_save:
            prune(self.root, {self.ledger.proven_step, self.ledger.best_step, *more})

    def _proven(self) -> None:
        """A step went well: so the weights of the newest checkpoint are good."""
        if self.ledger.proven_step != self.ledger.saved_step:
            self.ledger.proven_step = self.ledger.saved_step
            self._prune()

    def _cure(self) -> str:
        """What to do about a failed step; checkpoints that were not shown to be good are gone."""
        self._prune()
        return f"lower training.learning_rate; {last_good(self.root)}"

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.args.should_save:
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.lr_scheduler.state_dict(),
        }
        write_state(state, Path(output_dir) / OPTIMIZER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        state = read_state(Path(checkpoint) / OPTIMIZER)
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["schedule"])

    def _save_rng_state(self, output_dir: str) -> None:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)  # of several processes the first may be last
        state = {
            "python": random.getstate(),
            "numpy": np.random.get_state(),  # libraries draw from it
            "torch": random_state(),
        }
        write_state(state, folder / self._random_file())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        path = Path(checkpoint or "") / self._random_file()
        if checkpoint is None or not path.is_file():  # another number of processes wrote it
            return
        state = read_state(path)
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        restore_random_state(state["torch"])

    def _random_file(self) -> str:
        return f"random-{self.args.process_index}-of-{self.args.world_size}.safetensors"
