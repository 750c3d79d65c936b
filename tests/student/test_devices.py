"""Processes that share a training end with the one that started them, and are not mixed up."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.fingerprint import digest_path
from common.records import TrainingPair
from common.task import PROJECT_ROOT, TaskDefinition
from student.progress import TrainingHooks
from student.train import train_student

CHILD = (
    "import time; from student.starter import end_with_starter; end_with_starter(0); "
    "print('up', flush=True); time.sleep(60)"
)
STARTER = (
    "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
    "stdin=subprocess.PIPE); print(child.pid, flush=True); time.sleep(60)"
)


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def processes_of(room: Path) -> list[int]:
    """Those that train in a room, without the launcher, which ends when it sees them gone."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        training = str(room).encode() in command and b"accelerate.commands.launch" not in command
        if training and alive(int(folder.name)):
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_a_process_lives_as_long_as_its_starter_and_no_longer() -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, CHILD], cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    child = int(starter.stdout.readline())
    assert starter.stdout.readline() == "up\n"
    time.sleep(0.3)
    lived = alive(child)

    starter.kill()
    starter.wait()
    starter.stdout.close()

    assert lived
    wait_until(lambda: not alive(child), 5)


def train(
    student: StudentConfig,
    task: TaskDefinition,
    pairs: list[TrainingPair],
    folder: Path,
    hooks: TrainingHooks | None = None,
) -> None:
    train_student(
        student=student,
        training=TrainingConfig(
            batch_size=8, max_steps=60, evaluations=0, checkpoint_every_steps=4, seed=5,
            report_to=["none"], devices=2,
        ),
        task=task,
        train=pairs,
        validation=[],
        folder=folder,
        hooks=hooks,
        threads=2,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_a_killed_starters_processes_are_gone_at_once_and_the_next_launch_goes_on(
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    make_pairs: Callable[[int], list[TrainingPair]],
    tmp_path: Path,
) -> None:
    config, pairs, folder = tiny("seq2seq", "t5"), make_pairs(40), tmp_path / "killed"
    train(config, task, pairs, tmp_path / "undisturbed")
    starter = multiprocessing.get_context("spawn").Process(
        target=train, args=(config, task, pairs, folder)
    )
    starter.start()
    wait_until(lambda: [*folder.glob("checkpoints/checkpoint-*")], 120)
    room = folder / "devices"
    launched = processes_of(room)
    assert starter.pid is not None
    os.kill(starter.pid, signal.SIGKILL)
    starter.join()

    wait_until(lambda: not processes_of(room), 10)

    assert len(launched) == 2
    assert not (folder / "model").exists(), "ended before it could be killed"
    steps: list[int] = []
    train(config, task, pairs, folder, TrainingHooks(progress=lambda s: steps.append(s.step)))
    assert 4 < steps[0] <= 57
    assert steps == list(range(steps[0], 61))
    both = [digest_path(tmp_path / name / "model" / "model.safetensors")
            for name in ("undisturbed", "killed")]  # fmt: skip
    assert both[0] == both[1]
