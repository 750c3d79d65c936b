"""Two trainings in one folder: one at a time, and nobody waits for the dead."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.errors import JobCancelled, StudentBusy
from common.records import TrainingPair
from common.task import PROJECT_ROOT, TaskDefinition
from student import alone
from student.alone import alone_in
from student.progress import TrainingHooks
from student.train import train_student

Order = dict[str, Any]

HOLD = """
import sys, time
from pathlib import Path
from student.alone import alone_in
with alone_in(Path(sys.argv[1]), lambda: False):
    print("held", flush=True)
    time.sleep(60)
"""


def never() -> bool:
    return False


@contextmanager
def holder(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=PROJECT_ROOT, stdout=subprocess.PIPE
    )
    with process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def order(
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    make_pairs: Callable[[int], list[TrainingPair]],
    tmp_path: Path,
) -> Order:
    training = {"max_steps": 3, "batch_size": 4, "checkpoint_every_steps": 1, "evaluations": 0}
    return {
        "student": tiny("seq2seq", "t5"),
        "training": TrainingConfig.model_validate(training),
        "task": task,
        "train": make_pairs(8),
        "validation": [],
        "folder": tmp_path / "systems" / "student",
    }


def test_a_second_training_is_refused_by_name_while_the_first_is_at_work(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "PATIENCE_SECONDS", 0.3)

    with holder(order["folder"]) as first, pytest.raises(StudentBusy) as refused:
        train_student(**order)

    name = f"pid {first.pid} on {socket.gethostname()}"
    assert f"'{order['folder']}' is being trained by another process ({name})" in str(refused.value)
    assert sorted(path.name for path in order["folder"].iterdir()) == [".lock"]


def test_a_second_training_that_waits_takes_what_the_first_has_made(order: Order) -> None:
    """Both at once in one process: it is the file that is held, not the process."""
    began, go_on = threading.Event(), threading.Event()

    def first_step(_: object) -> None:
        began.set()
        assert go_on.wait(30)

    steps: list[object] = []
    first = threading.Thread(
        target=train_student,
        kwargs=order | {"hooks": TrainingHooks(progress=first_step)},
        daemon=True,
    )
    first.start()
    assert began.wait(60)
    threading.Timer(0.3, go_on.set).start()

    summary = train_student(**order, hooks=TrainingHooks(progress=steps.append))
    first.join()

    assert (summary.steps, steps) == (3, [])


def test_a_killed_training_lets_go_at_once_though_its_name_still_stands_there(
    tmp_path: Path,
) -> None:
    with holder(tmp_path) as first:
        os.kill(first.pid, signal.SIGKILL)
        begun = time.monotonic()
        with alone_in(tmp_path, never):
            assert time.monotonic() - begun < 5
            name = f"pid {os.getpid()} on {socket.gethostname()}"
            assert (tmp_path / ".lock").read_text() == name


def test_who_takes_over_from_a_dying_process_waits_for_its_end(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        threading.Timer(0.5, first.kill).start()
        with alone_in(tmp_path, never):
            assert first.wait(5) == -signal.SIGKILL


def test_a_job_cancelled_while_its_training_waits_ends_at_once(tmp_path: Path) -> None:
    with holder(tmp_path), pytest.raises(JobCancelled), alone_in(tmp_path, lambda: True):
        pass


def test_a_training_lets_go_when_it_ends_or_fails(order: Order) -> None:
    def fails(_: object) -> None:
        raise KeyError("a fault of the caller's")

    with pytest.raises(KeyError):
        train_student(**order, hooks=TrainingHooks(progress=fails))
    train_student(**order)

    with alone_in(order["folder"], lambda: pytest.fail("it is still held")):
        pass


def test_processes_that_share_a_training_do_not_refuse_each_other(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `devices: n` starts holds nothing itself: its starter does, and waits for it."""
    monkeypatch.setattr("student.train.inside_launch", lambda: True)
    with holder(order["folder"]):
        assert train_student(**order).steps == 3
