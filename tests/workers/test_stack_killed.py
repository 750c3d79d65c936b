"""An embedded stack that was killed: who comes next starts another and waits for no dead worker."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import RunConfig, load_config
from common.task import CONFIGS, PROJECT_ROOT
from tests.doubles.workers import wait_until
from workers import client as client_module
from workers.client import Client
from workers.embedded_redis import EmbeddedRedis
from workers.job_records import Job, StageRecord, State
from workers.ownership import address_file, is_owned, only_one, write_address
from workers.registry import announce, living_workers
from workers.services import Settings, connect, settings_from_environment
from workers.stack import ensure_stack, stop_stack

pytestmark = pytest.mark.services

LONG = [
    "data.train_limit=40",
    "data.test_limit=20",
    "training.max_steps=20000",
    "training.checkpoint_every_steps=20000",
    "training.evaluations=0",
    "training.batch_size=4",
    "student.tiny.hidden=16",
    "student.tiny.feed_forward=16",
]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    found = replace(
        settings_from_environment(), redis_url=None, runs=tmp_path / "r", state=tmp_path / "s",
        threads=1,
    )  # fmt: skip
    yield found
    stop_stack(found)
    EmbeddedRedis(found.state / "redis").stop()


def owner(settings: Settings) -> int:
    return int(json.loads(address_file(settings).read_text())["pid"])


def config() -> RunConfig:
    return load_config(CONFIGS / "demo.yaml", LONG).model_copy(update={"baselines": {}})


def test_fresh_heartbeats_of_killed_workers_are_not_taken_for_a_stack(settings: Settings) -> None:
    server = EmbeddedRedis(settings.state / "redis")
    server.start()
    write_address(settings, server.url)
    client, stop = connect(server.url), threading.Event()
    beat = announce(client, ["label", "train", "evaluate"], stop)
    wait_until(lambda: living_workers(client), "the heartbeat is there")

    ensure_stack(settings)

    assert is_owned(settings)
    stop.set()
    beat.join()
    client.close()


def test_a_stranger_with_the_process_id_of_a_killed_stack_is_left_in_peace(
    settings: Settings,
) -> None:
    code = "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code]) as stranger:
        settings.state.mkdir()
        address_file(settings).write_text(json.dumps({"redis_url": "", "pid": stranger.pid}))

        stop_stack(settings)

        with pytest.raises(subprocess.TimeoutExpired):
            stranger.wait(0.3)
        stranger.kill()


def test_the_next_owner_is_not_taken_for_the_killed_one_whose_address_lies_there(
    settings: Settings,
) -> None:
    """Its process id is this one's: it would be asked to stop."""
    settings.state.mkdir()
    write_address(settings, "unix:///nosuch")

    with only_one(settings):
        stop_stack(settings, 0.1)
        assert not address_file(settings).exists()


def test_who_stops_a_stack_that_is_ending_already_waits_until_it_has(settings: Settings) -> None:
    """As `finstill up` does: a stack on its way out has no address any more, but its lock."""
    with only_one(settings) as owned:
        stopping = threading.Thread(target=stop_stack, args=(settings,))
        stopping.start()
        stopping.join(0.5)
        waited = stopping.is_alive()
    stopping.join(5)

    assert (owned, waited, stopping.is_alive()) == (True, True, False)


def test_nobody_is_waited_for_longer_than_asked_nor_when_another_stack_has_come(
    settings: Settings,
) -> None:
    with only_one(settings):
        stop_stack(settings, 0.1)
        stopping = threading.Thread(target=stop_stack, args=(settings,))
        stopping.start()
        address_file(settings).write_text("{}")
        stopping.join(5)

        assert not stopping.is_alive()


def test_those_who_only_look_do_not_take_each_other_for_an_owner(settings: Settings) -> None:
    settings.state.mkdir()
    with (settings.state / "stack.lock").open("a+") as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        seen = is_owned(settings)
        fcntl.flock(looker, fcntl.LOCK_EX)

        assert (seen, is_owned(settings)) == (False, True)


def test_who_follows_a_job_starts_a_killed_stack_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "LOOK_SECONDS", 0.2)
    client = Client(settings)
    client.jobs.submit("job-1", "train", [StageRecord(name="prepare", title="Prepare")])
    follower = threading.Thread(target=client.follow, args=("job-1", lambda job: None), daemon=True)
    follower.start()

    os.kill(owner(settings), signal.SIGKILL)
    wait_until(lambda: not is_owned(settings), "the stack is gone")
    wait_until(lambda: is_owned(settings), "another has been started")
    client.jobs.end("job-1", State.CANCELLED)
    follower.join(30)

    assert not follower.is_alive()
    client.close()


def test_a_process_forked_from_a_worker_learns_that_the_worker_was_left_alone() -> None:
    """In a process of its own: what is noted there cannot be taken back."""
    code = (
        "import os, time\n"
        "from workers.orphans import Parent, note_orphaned\n"
        "if os.fork() == 0:\n"
        "    parent = Parent()\n"
        "    known = parent.gone()\n"
        "    deadline = time.monotonic() + 10\n"
        "    while not parent.gone() and time.monotonic() < deadline: time.sleep(0.01)\n"
        "    os._exit(0 if parent.gone() and not known else 1)\n"
        "time.sleep(0.3)\n"
        "note_orphaned()\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=False, timeout=30)

    assert done.returncode == 0


def test_a_process_whose_worker_died_before_it_first_asked_learns_that_too() -> None:
    code = (
        "import os, time\n"
        "from workers.orphans import Parent\n"
        "told, tell = os.pipe()\n"
        "worker = os.fork()\n"
        "if worker == 0:\n"
        "    worker = os.getpid()\n"
        "    if os.fork() == 0:\n"
        "        while os.getppid() == worker: time.sleep(0.01)\n"
        "        os.write(tell, b'gone' if Parent().gone() else b'there')\n"
        "    os._exit(0)\n"
        "os.waitpid(worker, 0)\n"
        "os.close(tell)\n"
        "print(os.read(told, 9).decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=30
    )

    assert done.stdout == "gone\n"


@pytest.mark.slow
def test_a_job_goes_on_for_its_follower_after_the_stack_was_killed_and_then_its_redis(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the stack's own process: its worker trains, and would for minutes, with the lease."""
    monkeypatch.setattr(client_module, "LOOK_SECONDS", 0.5)
    client = Client(settings)
    run = client.submit(config(), "train")
    seen: list[Job] = []
    follower = threading.Thread(target=client.follow, args=(run.run_id, seen.append), daemon=True)
    follower.start()
    records = Client(settings)

    def step() -> int:
        stage = records.jobs.stage(run.run_id, "train:student")
        return stage.done if stage and stage.state is State.RUNNING else 0

    wait_until(lambda: step() > 0, "the training has begun")
    first = {worker.pid for worker in living_workers(records.redis)}
    os.kill(owner(settings), signal.SIGKILL)
    wait_until(lambda: step() == 0, "the worker left alone has handed the training back", 30)
    handed_back = records.jobs.stage(run.run_id, "train:student")

    assert handed_back
    assert handed_back.state is State.QUEUED
    wait_until(lambda: step() > handed_back.done, "another goes on from its checkpoint")
    assert is_owned(settings)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in first), "the old end")

    os.kill(int(records.redis.info("server")["process_id"]), signal.SIGKILL)
    wait_until(EmbeddedRedis(settings.state / "redis").answers, "the new stack has started Redis")
    records.jobs.cancel(run.run_id)
    follower.join(60)

    assert not follower.is_alive()
    assert seen[-1].state is State.CANCELLED
    records.redis.close()
    client.close()


@pytest.mark.slow
def test_workers_left_alone_without_redis_end_and_their_task_is_not_lost(
    settings: Settings,
) -> None:
    client = Client(settings)
    run = client.submit(config(), "train")

    def step() -> int:
        stage = client.jobs.stage(run.run_id, "train:student")
        return stage.done if stage and stage.state is State.RUNNING else 0

    wait_until(lambda: step() > 0, "the training has begun")
    left = {worker.pid for worker in living_workers(client.redis)}
    server = int(client.redis.info("server")["process_id"])
    for pid in (owner(settings), server):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), "all have ended", 60)

    ensure_stack(settings)
    before = step()
    wait_until(lambda: step() > before, "the next stack's worker goes on")
    client.jobs.cancel(run.run_id)
    wait_until(lambda: client.jobs.get(run.run_id).ended, "it has stopped")
    client.close()
