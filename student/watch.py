"""The callback between the Trainer and the caller: progress, cancelling, early stopping."""

import time
from typing import Any

from transformers import TrainerCallback

from student.progress import TrainingHooks, TrainingProgress


class Watch(TrainerCallback):
    """Reports each step, stops when asked, and stops when validation stays stale."""

    def __init__(self, hooks: TrainingHooks, patience: int):
        self.hooks, self.patience = hooks, patience
        self.cancelled = False
        self.trainer: Any = None
        self._started = 0.0
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started, self._first_step = time.monotonic(), state.global_step

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.sampler.set_epoch(int((state.epoch or 0.0) + 1e-9))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        # The Trainer counts from its first step, and while copying nothing of labels is learnt.
        plan = self.trainer.plan
        control.should_evaluate = plan.due(state.global_step, args.eval_steps, state.max_steps)
        self.hooks.progress(self._progress(state))
        if self.trainer.agreed(self.hooks.cancelled()):
            self.cancelled = True
            control.should_save = control.should_training_stop = True
        return control

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        ledger = self.trainer.ledger
        if ledger.stale >= self.patience and state.global_step < state.max_steps:
            ledger.stopped_early = True
            control.should_training_stop = True
        return control

    def _progress(self, state: Any) -> TrainingProgress:
        report, trainer = self.trainer.report, self.trainer
        seconds = time.monotonic() - self._started
        done = max(1, state.global_step - self._first_step)
        return TrainingProgress(
            step=state.global_step,
            total_steps=state.max_steps,
            epoch=float(state.epoch or 0.0),
            loss=report.loss,
            label_loss=report.label_loss,
            rationale_loss=report.rationale_loss,
            learning_rate=trainer._get_learning_rate(),
            gradient_norm=report.gradient_norm,
            tokens_per_second=report.tokens / max(report.seconds, 1e-9),
            elapsed_seconds=trainer.elapsed_seconds(),
            eta_seconds=seconds / done * (state.max_steps - state.global_step),
            validation=trainer.latest_validation,
            notes=list(trainer.ledger.notes),
        )
