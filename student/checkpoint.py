"""
What lies on disk while a student is trained, and after.

FOLDER/checkpoints/checkpoint-N/   weights.safetensors (trained parameters), optimizer.safetensors
                                   (with the schedule), random-R-of-N.safetensors of each process,
                                   ledger.json, manifest.json, files.json (every file's bytes)
FOLDER/model/                      the finished student; its manifest.json is written first, and
                                   the folder gets its name only when everything is in it
FOLDER/tiny-base/                  the random weights a tiny student started from
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from common.config.student import TINY, StudentConfig
from common.config.training import TrainingConfig
from common.data.atomic import tells_full_disk
from common.errors import DiskFull, FinstillError, StudentError
from common.fingerprint import digest, digest_path
from common.records import Record, TrainingPair
from common.task import PROJECT_ROOT, TaskDefinition
from student.progress import TrainingSummary

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
MANIFEST = "manifest.json"
LEDGER = "ledger.json"
FILES = "files.json"
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers")

logger = logging.getLogger(__name__)


class Manifest(Record):
    """What a student is and where it came from. `base`: what its adapters were trained on."""

    schema_version: int = 1
    student: StudentConfig
    training: TrainingConfig
    task: TaskDefinition
    base: str
    tokens: dict[str, int]
    data_fingerprint: str
    identity: str
    versions: dict[str, str]
    git_commit: str | None
    summary: TrainingSummary | None = None

    @property
    def explains(self) -> bool:
        """Whether it has learnt to write rationales: it was asked to, and there were some."""
        asked = self.training.teaches_rationales(self.student.architecture)
        return asked and (self.summary is None or self.summary.rationales != 0)


def data_fingerprint(train: Iterable[TrainingPair], validation: Iterable[TrainingPair]) -> str:
    """Digest of all pairs in order."""
    return digest([[p.model_dump(mode="json") for p in part] for part in (train, validation)])


def identity(
    student: StudentConfig, training: TrainingConfig, task: TaskDefinition, data: str
) -> str:
    """
    Digest of everything that decides the weights: a folder with another one is not resumed.

    A base or tokenizer in a local folder counts with what is in it, a hub's with its name.
    """
    parts = [part.model_dump(mode="json") for part in (student, training, task)]
    parts[1].pop("report_to")
    folders = [Path(name) for name in (student.model, student.tokenizer) if name and name != TINY]
    return digest([*parts, data, *(digest_path(folder) for folder in folders if folder.is_dir())])


def versions() -> dict[str, str]:
    """Versions of the packages that touch weights."""
    return {name: version(name) for name in PACKAGES}


def git_commit() -> str | None:
    """The checkout's commit, None outside one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=PROJECT_ROOT, capture_output=True, text=True
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished student or a checkpoint. Raises StudentError without one."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudentError(
            f"student folder '{folder}' holds no {MANIFEST}: it is no finished student; give the "
            "model/ folder of a training that ended."
        ) from error
    except (ValidationError, UnicodeDecodeError, OSError) as error:
        raise StudentError(
            f"student manifest '{path}' cannot be read ({_fault(error)}); expected one written by "
            "this version: copy the folder again whole, or train the student again."
        ) from error


def _fault(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return type(error).__name__
    first = error.errors(include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def save_trained(module: nn.Module, folder: Path) -> None:
    """Write the parameters that are trained, each once, as safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {n: p.detach().cpu().contiguous() for n, p in _trained(module).items()}
    save_file(tensors, folder / WEIGHTS)


def load_trained(module: nn.Module, folder: Path) -> None:
    """Read them back into a module of the same shape, bit for bit."""
    stored, parameters = load_file(folder / WEIGHTS), _trained(module)
    if stored.keys() != parameters.keys():
        raise StudentError(
            f"checkpoint '{folder}' holds {len(stored)} weights, this student trains "
            f"{len(parameters)}: it belongs to another model; remove it to start afresh."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in module.named_parameters() if p.requires_grad}


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one line."""
    path.write_text(json.dumps(value), encoding="utf-8")


def complete_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first. What a crash left half written has another name."""
    found = [p for p in folder.glob("checkpoint-*") if (p / MANIFEST).is_file()]
    return sorted(found, key=step_of)


def last_good(folder: Path) -> str:
    """Half a sentence on what is left when a training fails."""
    kept = complete_checkpoints(folder)
    if not kept:
        return "no good checkpoint was written yet"
    return f"the last good checkpoint is '{kept[-1]}'"


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def newest_checkpoint(folder: Path, expected: str) -> Path | None:
    """
    The newest complete checkpoint of the training with identity `expected`, with that of its best
    step beside it.

    Checkpoints of another training (other data or config) are removed: they would mix.
    """
    for staging in folder.glob(".writing*"):
        shutil.rmtree(staging, ignore_errors=True)
    ours = []
    for checkpoint in complete_checkpoints(folder):
        if read_manifest(checkpoint).identity == expected:
            ours.append(checkpoint)
        else:
            logger.info("removing %s: it is of another training", checkpoint.name)
            shutil.rmtree(checkpoint)
    steps = {None, *map(step_of, ours)}
    usable = [c for c in ours if json.loads((c / LEDGER).read_text("utf-8"))["best_step"] in steps]
    return usable[-1] if usable else None


def list_files(folder: Path) -> None:
    """Write down how many bytes each file of a checkpoint has; see set_aside_damaged."""
    write_json(folder / FILES, {p.name: p.stat().st_size for p in folder.iterdir()})


def set_aside_damaged(folder: Path) -> list[str]:
    """
    Rename checkpoints whose files are not what was written, or that an earlier version wrote.

    Returns a sentence on each. A cut or lost file would stop the training, or change its weights.
    """
    told = []
    for checkpoint in complete_checkpoints(folder):
        if fault := _damage(checkpoint):
            aside = folder / f"damaged-{checkpoint.name}"
            shutil.rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)
            told.append(f"{checkpoint.name} is damaged ({fault}) and was set aside as {aside.name}")
    return told


def _damage(checkpoint: Path) -> str | None:
    try:
        wanted = json.loads((checkpoint / FILES).read_text("utf-8"))
    except (OSError, ValueError) as error:
        return f"{FILES} cannot be read: {type(error).__name__}"
    for name, size in wanted.items():
        if fault := size_fault(checkpoint / name, size):
            return f"{name} {fault}"
    return None


def size_fault(path: Path, expected: int | None) -> str | None:
    """Half a sentence on a file that is missing or has other than `expected` bytes (None: any)."""
    if not path.is_file():
        return "is missing"
    found = path.stat().st_size
    return None if expected in (None, found) else f"has {found} bytes, expected {expected}"


def prune(folder: Path, keep_steps: Iterable[int | None]) -> None:
    """Remove all checkpoints but those of the given steps."""
    kept = set(keep_steps)
    for checkpoint in complete_checkpoints(folder):
        if step_of(checkpoint) not in kept:
            shutil.rmtree(checkpoint)


def publish(staging: Path, final: Path) -> None:
    """Give a folder its name once all its bytes are on disk. Raises DiskFull."""
    with room_for(final):
        for file in staging.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        if final.exists():
            shutil.rmtree(final)
        os.replace(staging, final)


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Say DiskFull where writing `path` fails for want of room, whichever library says so."""
    try:
        yield
    except FinstillError:
        raise
    except Exception as error:
        if tells_full_disk(error):
            raise DiskFull(
                f"the disk is full: '{path}' could not be written; free space and retry."
            ) from error
        raise
