"""Train one student from pairs to a finished folder; called again, it goes on where it was."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import set_seed

from common.config.student import TINY, StudentConfig
from common.config.training import TrainingConfig
from common.errors import InputError, JobCancelled, StudentError
from common.records import TrainingPair
from common.task import TaskDefinition
from student.alone import alone_in
from student.arguments import training_arguments
from student.checkpoint import (
    MANIFEST,
    Manifest,
    data_fingerprint,
    git_commit,
    identity,
    load_trained,
    newest_checkpoint,
    read_manifest,
    set_aside_damaged,
    step_of,
    versions,
)
from student.confidence import soften
from student.copying import copying_plan
from student.defaults import hyperparameters
from student.devices import inside_launch, local_device, train_on_devices
from student.encoding import EncodedExample, Encoder, encode_pairs
from student.job import Training, summarise, write_model
from student.ledger import Ledger
from student.memory import (
    beside_the_examples,
    forget_peak_memory,
    freed_memory_kept,
    is_out_of_memory,
)
from student.models.load import LoadedStudent, Plan, load_student
from student.models.tiny import prepare_tiny, tiny_texts
from student.progress import TrainingHooks, TrainingSummary
from student.quiet import quiet_libraries
from student.reporters import reporters
from student.steps import Objective
from student.token_odds import require_aligned
from student.trainer import StepByStepTrainer
from student.validation import validation_calibration, validation_metrics
from student.watch import Watch

logger = logging.getLogger(__name__)


def train_student(
    *,
    student: StudentConfig,
    training: TrainingConfig,
    task: TaskDefinition,
    train: Sequence[TrainingPair],
    validation: Sequence[TrainingPair],
    folder: Path,
    hooks: TrainingHooks | None = None,
    threads: int | None = None,
) -> TrainingSummary:
    """
    Train `student` on `train` and leave it in `folder`/model.

    A finished folder of the same training is returned as it is; an interrupted one is resumed and
    ends bit-identical on CPU. Raises JobCancelled (a checkpoint is kept) and StudentError;
    StudentBusy while another process trains in this folder.
    """
    if not train:
        raise InputError("training: there is not a single training pair; expected at least one.")
    quiet_libraries()
    forget_peak_memory()
    if threads:
        torch.set_num_threads(threads)
    hooks = hooks or TrainingHooks()
    # Of several processes that share a training, the one that starts them holds the folder.
    with nullcontext() if inside_launch() else alone_in(folder, hooks.cancelled):
        job = _plan(student, training, task, train, validation, folder, hooks)
        finished = _finished(job)
        if finished:
            return finished
        _prepare_tiny(job, [*train, *validation])
        if training.devices > 1 and not inside_launch():
            return train_on_devices(
                student=student, training=training, task=task, train=train, validation=validation,
                folder=folder, hooks=hooks, threads=threads,
            )  # fmt: skip
        return _train_here(job, train, validation)


def _train_here(
    job: Training, train: Sequence[TrainingPair], validation: Sequence[TrainingPair]
) -> TrainingSummary:
    set_seed(job.training.seed or 0)
    loaded, device = _load(job)
    encoder = Encoder(job.student, job.task, loaded.tokenizer, loaded.tokens)
    trainer = _trainer(job, loaded, encoder, train, validation)
    summary = _run(job, loaded, trainer, device)
    if trainer.args.should_save:
        loaded.module.eval()
        calibration = validation_calibration(
            loaded.module, encoder, validation, device, job.training.precision
        )
        write_model(job, loaded, summary, calibration)
    return summary


def _plan(
    student: StudentConfig,
    training: TrainingConfig,
    task: TaskDefinition,
    train: Sequence[TrainingPair],
    validation: Sequence[TrainingPair],
    folder: Path,
    hooks: TrainingHooks,
) -> Training:
    _check_labels(task, [*train, *validation])
    data = data_fingerprint(train, validation)
    base = str(folder / "tiny-base") if student.model == TINY else student.model
    manifest = Manifest(
        student=student,
        training=training,
        task=task,
        base=base,
        tokens={},
        data_fingerprint=data,
        identity=identity(student, training, task, data),
        versions=versions(),
        git_commit=git_commit(),
    )
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    parameters = hyperparameters(student, training)
    return Training(student, training, task, folder, hooks, parameters, manifest)


def _check_labels(task: TaskDefinition, pairs: Sequence[TrainingPair]) -> None:
    strangers = sorted({p.label for p in pairs} - set(task.label_names))
    if strangers:
        raise StudentError(
            f"training pairs carry the labels {strangers}, which task '{task.name}' does not have; "
            f"expected {task.label_names}."
        )


def _finished(job: Training) -> TrainingSummary | None:
    if not (job.folder / "model" / MANIFEST).is_file():
        return None
    stored = read_manifest(job.folder / "model")
    return stored.summary if stored.identity == job.manifest.identity else None


def _prepare_tiny(job: Training, pairs: Sequence[TrainingPair]) -> None:
    """Before several processes start: two would write the same folder at the same time."""
    if job.student.tiny:
        texts = tiny_texts(pairs, job.task, job.student.prompt)
        prepare_tiny(job.folder / "tiny-base", job.student.tiny, texts, job.training.seed or 0)


def _load(job: Training) -> tuple[LoadedStudent, torch.device]:
    device = local_device()
    set_seed(job.training.seed or 0)
    plan = Plan(
        compute=torch.bfloat16 if job.training.precision == "bf16" else torch.float32,
        checkpointing=job.parameters.gradient_checkpointing,
        row_tokens=job.parameters.row_tokens,
        device=device,
    )
    return load_student(job.student, job.task, job.manifest.base, plan), device


def _trainer(
    job: Training,
    loaded: LoadedStudent,
    encoder: Encoder,
    train: Sequence[TrainingPair],
    validation: Sequence[TrainingPair],
) -> StepByStepTrainer:
    soft, tokens = job.training.soft_labels, job.training.token_distillation
    examples = _encode(job, encoder, soften(train, soft, job.task.label_names))
    copying = copying_plan(job.training, examples, job.parameters.warmup_share)
    arguments = training_arguments(
        job.training, job.parameters, job.checkpoints, examples,
        evaluate=bool(validation), copied=copying.steps,
    )  # fmt: skip
    watch = Watch(job.hooks, job.training.patience)
    trainer = StepByStepTrainer(
        loaded.module,
        arguments,
        examples,
        Objective(
            rationale_weight=job.training.rationale_weight,
            soft_share=soft.share if soft else 0.0,
            temperature=soft.temperature if soft else 1.0,
            token_share=tokens.share if tokens else 0.0,
            token_temperature=tokens.temperature if tokens else 1.0,
        ),
        Ledger(micro_batch_size=job.parameters.micro_batch_size),
        length_pool=job.training.length_pool,
        manifest=job.manifest.model_dump_json(),
        evaluate=_evaluation(job, encoder, validation, arguments.device) if validation else None,
        fresh=loaded.fresh,
        fresh_factor=job.parameters.fresh_learning_rate_factor,
        min_improvement=job.training.min_improvement,
        copying=copying,
        callbacks=[watch, *reporters(job.training.report_to, job.folder)],
    )
    watch.trainer = trainer
    return trainer


def _evaluation(
    job: Training, encoder: Encoder, validation: Sequence[TrainingPair], device: torch.device
) -> Callable[[torch.nn.Module], dict[str, float]]:
    precision = job.training.precision
    return lambda module: validation_metrics(module, encoder, validation, device, precision)


def _encode(job: Training, encoder: Encoder, train: Sequence[TrainingPair]) -> list[EncodedExample]:
    published = job.training.prompt_loss == "as_published" and job.student.architecture == "causal"
    examples = encode_pairs(
        encoder,
        [_weighed(job.training, pair) for pair in train],
        rationale=job.training.rationale_weight > 0,
        all_labels=job.training.soft_labels is not None,
        token_odds=job.training.token_distillation is not None,
        copying=job.training.copying,
        prompt_target=encoder.tokens.pad if published else None,
    )
    if job.training.token_distillation:
        branches = [b for e in examples for b in e.branches if b.taught]
        require_aligned([(b.target_count - 1, sum(map(bool, b.taught))) for b in branches])
    return examples


def _weighed(training: TrainingConfig, pair: TrainingPair) -> TrainingPair:
    if training.example_weight == "none" or pair.confidence is None:
        return pair
    return pair.model_copy(update={"weight": pair.weight * pair.confidence})


def _run(
    job: Training, loaded: LoadedStudent, trainer: StepByStepTrainer, device: torch.device
) -> TrainingSummary:
    started = time.monotonic()
    with trainer.accelerator.main_process_first():  # two that clear up at once disturb each other
        damaged = set_aside_damaged(job.checkpoints)
        resume = newest_checkpoint(job.checkpoints, job.manifest.identity)
    if resume:
        trainer.ledger = Ledger.load(resume)
        logger.info("resuming %s from %s", job.folder.name, resume.name)
    elif job.training.teaches_rationales(job.student.architecture) and not trainer.rationales:
        trainer.ledger.note("no training text comes with a rationale: it learns labels only")
    for sentence in damaged:
        trainer.ledger.note(f"{sentence}; went on from {resume.name if resume else 'the start'}")
    if resume and (trainer.ledger.stopped_early or step_of(resume) >= trainer.args.max_steps):
        # Nothing is left but to write the model: one more step would make it another one.
        load_trained(loaded.module, resume)
        trainer.state.global_step = step_of(resume)
    else:
        try:
            with freed_memory_kept():
                trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise beside_the_examples(error) from error
    watch = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Watch))
    if watch.cancelled:
        raise JobCancelled(
            f"training cancelled at step {trainer.state.global_step} of {trainer.state.max_steps}; "
            f"a checkpoint is kept in '{job.checkpoints}'."
        )
    best = trainer.ledger.best_step
    if best is not None and best != trainer.state.global_step:
        load_trained(loaded.module, job.checkpoints / f"checkpoint-{best}")
    summary = summarise(trainer, loaded, job, device)
    logger.info(
        "trained %s: %d steps in %.0f s", job.folder.name, summary.steps, time.monotonic() - started
    )
    return summary
