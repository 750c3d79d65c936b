"""
The Hugging Face Trainer with the step-by-step loss.

One batch of the loader is one effective batch. It is sorted by length, cut into micro-batches and
run through here, so the two denominators of the loss are known before the first backward pass, and
a micro-batch that does not fit can be halved without changing the effective batch.
"""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from transformers import PrinterCallback, TrainingArguments

from common.errors import StudentError
from student.copying import CopyingPlan, two_schedules
from student.gradients import group_norms
from student.ledger import Ledger
from student.losses import Terms, Totals
from student.memory import is_out_of_memory, out_of_memory_sentence, peak_memory_bytes
from student.models.scores import name_in_base
from student.resume import SafetensorsTrainer
from student.sampling import PooledSampler, micro_batches
from student.steps import (
    Examples,
    Objective,
    StepReport,
    batch_totals,
    micro_batch_terms,
    module_of,
    random_state,
    restore_random_state,
    step_report,
)

NOTHING_COPIED = CopyingPlan()
Evaluate = Callable[[nn.Module], dict[str, float]]


class StepByStepTrainer(SafetensorsTrainer):
    """Trains a StudentModule on EncodedExamples; see the module docstring."""

    def __init__(
        self,
        module: nn.Module,
        args: TrainingArguments,
        examples: Examples,
        objective: Objective,
        ledger: Ledger,
        *,
        length_pool: int = 8,
        manifest: str = "{}",
        evaluate: Evaluate | None = None,
        fresh: frozenset[str] = frozenset(),
        fresh_factor: float = 1.0,
        min_improvement: float = 0.0,
        copying: CopyingPlan = NOTHING_COPIED,
        callbacks: list[Any] | None = None,
    ):
        self.student, self.root = module, Path(str(args.output_dir))
        self.objective: Objective = objective
        self.ledger, self.manifest = ledger, manifest
        self._evaluate_student = evaluate
        self._fresh, self._fresh_factor = fresh, fresh_factor
        self._min_improvement = min_improvement
        self.plan = copying
        self.report = StepReport()
        self.latest_validation: dict[str, float] | None = None
        self._clock = time.monotonic()
        self.sampler = PooledSampler(
            [e.length for e in examples],
            args.per_device_train_batch_size * args.world_size,
            length_pool,
            args.seed,
        )
        super().__init__(
            model=module,
            args=args,
            train_dataset=cast(Any, examples),
            eval_dataset=cast(Any, [] if evaluate else None),
            data_collator=cast(Any, list),  # a batch stays what it is: encoded examples
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)

    # -- the step ---------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> PooledSampler:
        return self.sampler

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """One effective batch; its denominators are counted in training_step."""
        batches = super().get_batch_samples(epoch_iterator, num_batches, device)[0]
        return batches, None

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward over one effective batch, in as many micro-batches as it takes."""
        started = time.monotonic()
        model.train()
        examples = self._lesson(inputs)
        before = random_state()
        while True:
            try:
                terms, totals = self._accumulate(model, examples)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error, len(examples))
                model.zero_grad()
                restore_random_state(before)
        self._take_report(terms, totals, examples, time.monotonic() - started)
        return terms.loss(totals, self._weight).to(self.args.device)

    @property
    def rationales(self) -> int:
        """How many of its texts come with one."""
        return sum(e.explained for e in cast(Examples, self.train_dataset))

    @property
    def copying(self) -> bool:
        """Whether the next step still teaches to write out the text that is read."""
        return self.state.global_step < self.plan.steps

    @property
    def _weight(self) -> float:
        return 1.0 if self.copying else self.objective.rationale_weight

    def _lesson(self, examples: Examples) -> Examples:
        if not self.plan.steps:
            return examples
        module_of(self.student).encoder_rests = self.copying and self.plan.encoder_rests
        if self.copying:
            return [e.copy for e in examples if e.copy is not None]
        if self.state.global_step == self.plan.steps:
            self.ledger.copied(self.plan.steps)
        return examples

    def _accumulate(self, model: nn.Module, examples: Examples) -> tuple[Terms, Totals]:
        mine = batch_totals(examples)
        totals = Totals(*self._joint(mine.label, mine.rationale))
        parts = micro_batches(examples, self.ledger.micro_batch_size)
        sums: list[Terms] = []
        device = self.args.device
        with self.accelerator.autocast():  # open over all parts: weights are cast once
            for number, part in enumerate(parts, start=1):
                last = number == len(parts)
                with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                    terms = micro_batch_terms(model, part, self.objective, device)
                    loss = terms.loss(totals, self._weight)
                    # DDP averages gradients over devices; the denominators are already joint.
                    with torch.autocast(device.type, enabled=False):
                        self.accelerator.backward(loss * self.args.world_size)
                sums.append(Terms(terms.label.detach(), terms.rationale.detach()))
        label, rationale = self._joint(
            float(sum(t.label for t in sums)), float(sum(t.rationale for t in sums))
        )
        return Terms(torch.tensor(label), torch.tensor(rationale)), totals

    def _joint(self, *mine: float) -> list[float]:
        """Sums over all devices."""
        if self.args.world_size == 1:
            return list(mine)
        figures = torch.tensor(mine, dtype=torch.float64, device=self.args.device)
        joint: list[float] = self.accelerator.reduce(figures, reduction="sum").tolist()
        return joint

    def agreed(self, mine: bool) -> bool:
        """The first process's answer, on all: they must stop at the same step or wait forever."""
        if self.args.world_size == 1:
            return mine
        answer = torch.tensor([float(mine)], device=self.args.device)
        return bool(broadcast(answer, from_process=0).item())

    def _halve(self, error: BaseException, size: int) -> None:
        current = min(self.ledger.micro_batch_size, size)
        if current <= 1 or self.args.world_size > 1:
            raise StudentError(out_of_memory_sentence(current, self.args.world_size)) from error
        self.ledger.micro_batch_size = current // 2
        note = (
            f"out of memory at step {self.state.global_step + 1}: micro-batch halved to "
            f"{current // 2}, effective batch unchanged"
        )
        self.ledger.note(note)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _take_report(
        self, terms: Terms, totals: Totals, examples: Examples, seconds: float
    ) -> None:
        self.report = step_report(terms, totals, self._weight, copying=self.copying)
        count, tokens = self._joint(len(examples), sum(e.length for e in examples))
        self.report.tokens, self.report.seconds = int(tokens), seconds
        self.ledger.examples_seen += int(count)
        self.ledger.tokens_seen += int(tokens)
        loss, at = self.report.loss, f"at step {self.state.global_step + 1}"
        if not math.isfinite(loss):
            raise StudentError(
                f"training: the loss became {loss} {at}, expected a number: {self._cure()}."
            )
        if self.ledger.explodes(loss):
            raise StudentError(
                f"training: the loss exploded to {loss:.3g} {at}, expected it to stay near its "
                f"running mean of {self.ledger.smallest_loss:.3g}: {self._cure()}."
            )
        if not self.ledger.steps_above:
            self._proven()

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        every = self.args.logging_steps
        if (self.state.global_step + 1) % int(every) == 0:
            self.report.group_norms = group_norms(self.student)
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        self.report.gradient_norm = float(norm)
        if not math.isfinite(self.report.gradient_norm):
            raise StudentError(
                f"training: a gradient became {self.report.gradient_norm} at step "
                f"{self.state.global_step + 1}, expected finite ones: {self._cure()}."
            )
        return norm

    # -- optimizer, log, evaluation ---------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW in four groups: with or without decay, warm or fresh weights."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, None)
            self.optimizer = kind(self._groups(options["lr"]), **options)
        return self.optimizer

    def _groups(self, rate: float) -> list[dict[str, Any]]:
        decayed = set(self.get_decay_parameter_names(self.student))
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.student.named_parameters():
            if parameter.requires_grad:
                key = (name in decayed, name_in_base(name) in self._fresh)
                groups.setdefault(key, []).append(parameter)
        return [
            {
                "params": parameters,
                "weight_decay": self.args.weight_decay if decay else 0.0,
                "lr": rate * (self._fresh_factor if fresh else 1.0),
            }
            for (decay, fresh), parameters in groups.items()
        ]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """One schedule; with copying two, one after the other, each with its own warm-up."""
        if not self.plan.steps or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        optimizer = optimizer or self.optimizer
        assert optimizer is not None
        kind, warmup = self.args.lr_scheduler_type, int(self.args.warmup_steps)
        left = num_training_steps - self.plan.steps
        both = two_schedules(kind, optimizer, self.plan, warmup, left)
        self.lr_scheduler = both  # type: ignore[assignment]
        return both

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the Trainer does not know: both terms, group norms, speed, memory."""
        if "loss" in logs:
            report = self.report
            for term in ("label_loss", "rationale_loss", "copy_loss"):
                if (value := getattr(report, term)) is not None:
                    logs[term] = value
            logs["peak_memory_bytes"] = peak_memory_bytes(self.args.device)
            logs["tokens_per_second"] = report.tokens / max(report.seconds, 1e-9)
            for group, norm in (report.group_norms or {}).items():
                logs[f"grad_norm/{group}"] = norm
        self.ledger.history.append({"step": self.state.global_step, **logs})
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Label scoring on the validation pairs; keeps the best step and counts stale ones."""
        assert self._evaluate_student is not None
        self.student.eval()
        metrics = self._evaluate_student(self.student)
        self.student.train()
        self.latest_validation = metrics
        step = self.state.global_step
        is_best = self.ledger.record_evaluation(metrics, step, self._min_improvement)
        prefixed = {f"eval_{name}": value for name, value in metrics.items()}
        self.log(prefixed)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, prefixed
        )
        self.control.should_save = self.control.should_save or is_best
        return prefixed
