"""What a checkpoint holds beside weights, written without pickle."""

import random
from pathlib import Path

import numpy as np
from transformers import Trainer

from student.checkpoint import OPTIMIZER
from student.state_file import read_state, write_state
from student.steps import random_state, restore_random_state


class SafetensorsTrainer(Trainer):
    """The Trainer, with optimizer, schedule and random states in safetensors files."""

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
