"""
One training on several devices: a process per device, started and watched from the caller's.

Each process is student/launched.py under `accelerate launch` (its --multi_gpu is torch's own
launcher, which starts processes on CPUs too: a test there runs the same code). Progress comes back
through a file of JSON lines, cancelling goes out as a file, an error of the first process is raised
here as what it was. All of them inherit the end of a pipe as stdin and end when the caller does
(student/starter.py): killed, it can tell nobody, and another worker goes on in the same folder.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from common import errors
from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.errors import StudentError
from common.records import Record, TrainingPair
from common.task import PROJECT_ROOT, TaskDefinition
from student.checkpoint import MANIFEST, read_manifest
from student.progress import TrainingHooks, TrainingProgress, TrainingSummary

POLL_SECONDS = 0.2


class Order(Record):
    """What the processes are told."""

    student: StudentConfig
    training: TrainingConfig
    task: TaskDefinition
    train: list[TrainingPair]
    validation: list[TrainingPair]
    folder: Path
    threads: int | None = None


def inside_launch() -> bool:
    """Whether this process is one of several that share a training."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_device() -> torch.device:
    """The device of this process: each of several takes its own GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def visible_gpus(devices: int) -> list[str]:
    """
    The GPUs that a training on so many devices takes, by their own ids; none where it has CPUs.

    The ids are the cards', whatever number CUDA_VISIBLE_DEVICES gives them in a process.
    """
    if not torch.cuda.is_available():
        return []
    count = min(devices, torch.cuda.device_count())
    return [str(torch.cuda.get_device_properties(number).uuid) for number in range(count)]


def train_on_devices(
    *,
    student: StudentConfig,
    training: TrainingConfig,
    task: TaskDefinition,
    train: Sequence[TrainingPair],
    validation: Sequence[TrainingPair],
    folder: Path,
    hooks: TrainingHooks,
    threads: int | None,
) -> TrainingSummary:
    """
    Start `training.devices` processes, which share the threads, and wait for them.

    Raises what the first one raised.
    """
    room = folder / "devices"
    room.mkdir(parents=True, exist_ok=True)
    for stale in room.iterdir():
        stale.unlink()
    share = max(1, (threads or torch.get_num_threads()) // training.devices)
    order = Order(
        student=student, training=training, task=task, train=list(train),
        validation=list(validation), folder=folder, threads=share,
    )  # fmt: skip
    (room / "order.json").write_text(order.model_dump_json(), encoding="utf-8")
    with (room / "output.txt").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            launch_command(training.devices, share, room),
            cwd=PROJECT_ROOT,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
        with process:  # closes the pipe in the end
            try:
                _watch(process, room, hooks)
            finally:
                process.terminate()
                process.wait()
    return _result(process.returncode, room, folder)


def launch_command(devices: int, threads: int, room: Path) -> list[str]:
    """The command that starts the processes; port 0: a free one. Precision is the training's."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    options = {
        "num_processes": devices, "num_machines": 1, "main_process_port": 0,
        "mixed_precision": "no", "dynamo_backend": "no", "num_cpu_threads_per_process": threads,
    }  # fmt: skip
    told = [f"--{name}={value}" for name, value in options.items()]
    return [*launcher, *told, "--module", "student.launched", str(room)]


def _watch(process: "subprocess.Popen[bytes]", room: Path, hooks: TrainingHooks) -> None:
    told = 0
    while True:
        ended = process.poll() is not None
        path = room / "progress.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines[told:]:
            hooks.progress(TrainingProgress(**json.loads(line)))
        told = len(lines)
        if ended:
            return
        if hooks.cancelled():
            (room / "cancel").touch()
        time.sleep(POLL_SECONDS)


def _result(code: int, room: Path, folder: Path) -> TrainingSummary:
    failure = room / "failure.json"
    if failure.exists():
        kind, message = json.loads(failure.read_text(encoding="utf-8"))
        raise getattr(errors, kind)(message)
    if not (folder / "model" / MANIFEST).is_file():
        last = (room / "output.txt").read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise StudentError(
            f"training on several devices ended with code {code} and no model; its output stands "
            f"in '{room / 'output.txt'}' and ends: {' '.join(last)}"
        )
    summary = read_manifest(folder / "model").summary
    assert summary is not None
    return summary
