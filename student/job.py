"""One training as a value, and what is left of it: a summary and a finished model folder."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from common.config.student import TINY, StudentConfig
from common.config.training import TrainingConfig
from common.task import TaskDefinition
from student.calibration import Calibration, write_calibration
from student.checkpoint import MANIFEST, Manifest, publish, room_for
from student.defaults import Hyperparameters
from student.memory import parameter_counts, peak_memory_bytes
from student.models.load import LoadedStudent
from student.progress import TrainingHooks, TrainingSummary
from student.trainer import StepByStepTrainer

TINY_BELOW_PARAMETERS = 5_000_000


@dataclass(frozen=True, slots=True)
class Training:
    """All that one training is made of, in one place for the functions below."""

    student: StudentConfig
    training: TrainingConfig
    task: TaskDefinition
    folder: Path
    hooks: TrainingHooks
    parameters: Hyperparameters
    manifest: Manifest

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def summarise(
    trainer: StepByStepTrainer, loaded: LoadedStudent, job: Training, device: torch.device
) -> TrainingSummary:
    ledger = trainer.ledger
    parameters, trainable = parameter_counts(loaded.module)
    return TrainingSummary(
        steps=trainer.state.global_step,
        seconds=trainer.elapsed_seconds(),
        examples_seen=ledger.examples_seen,
        tokens_seen=ledger.tokens_seen,
        parameters=parameters,
        trainable_parameters=trainable,
        best_validation=ledger.best,
        best_step=ledger.best_step,
        history=ledger.history,
        peak_memory_bytes=peak_memory_bytes(device),
        micro_batch_size=ledger.micro_batch_size,
        stopped_early=ledger.stopped_early,
        tiny=job.student.model == TINY or parameters < TINY_BELOW_PARAMETERS,
        rationales=trainer.rationales,
        notes=ledger.notes,
    )


def write_model(
    job: Training, loaded: LoadedStudent, summary: TrainingSummary, calibration: Calibration
) -> None:
    staging, final = job.folder / ".model.writing", job.folder / "model"
    with room_for(final):
        _write(job, loaded, summary, calibration, staging)
    publish(staging, final)
    shutil.rmtree(job.checkpoints, ignore_errors=True)


def _write(
    job: Training,
    loaded: LoadedStudent,
    summary: TrainingSummary,
    calibration: Calibration,
    staging: Path,
) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    model: Any = loaded.module.model
    loaded.core.config.use_cache = True
    model.save_pretrained(staging)
    loaded.tokenizer.save_pretrained(staging)
    base = job.manifest.base
    if job.student.lora and job.student.tiny:
        # An adapter is nothing without its base, and a random one can be had nowhere else.
        shutil.copytree(base, staging / "base")
        base = "base"
    manifest = job.manifest.model_copy(
        update={
            "base": base,
            "summary": summary,
            "tokens": {k: v for k, v in asdict(loaded.tokens).items() if v is not None},
        }
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1)
    (staging / MANIFEST).write_text(text, encoding="utf-8")
    write_calibration(staging, calibration)
