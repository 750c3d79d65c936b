"""How cores and devices are shared by the workers of a host."""

import fcntl
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from rich.console import Console

from common.config import RunConfig, load_config
from common.data.locks import try_lock
from common.errors import ServiceError
from common.task import CONFIGS, PROJECT_ROOT
from tests.doubles.workers import Workers, note_worker, own_redis, wait_until
from workers import computing
from workers.client import Client
from workers.computing import (
    core_names,
    device_for_training,
    forget_threads,
    held,
    keep_threads,
    threads_of,
)
from workers.display import JobDisplay, note
from workers.job_records import Job, StageRecord, State
from workers.registry import computing_processes, living_workers
from workers.services import Settings, settings_from_environment, usable_cores


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Locks of this test's own; processes that it starts find them by the environment."""
    folder = tmp_path / "locks"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_trainings_have_together_no_more_threads_than_cores(tmp_path: Path) -> None:
    cores = core_names(tmp_path, 4)

    with held(cores, 2) as first, held(cores, 3) as second, held(cores, 2) as third:
        assert (first, second, third) == (True, False, True)
        with held(cores, 1) as fourth:
            assert not fourth

    with held(cores, 4) as alone:
        assert alone


def test_a_gpu_trains_one_student_at_a_time_in_whatever_set_it_is_visible() -> None:
    with held(["gpu-a", "gpu-b"], 2) as both:
        with held(["gpu-b"], 1) as one, held(["gpu-b", "gpu-c"], 2) as pair:
            assert (both, one, pair) == (True, False, False)
        with held(["gpu-c"], 1) as other:
            assert other


def test_installations_do_not_wait_for_each_others_cores() -> None:
    with held(core_names(Path("/a"), 1), 1), held(core_names(Path("/b"), 1), 1) as other:
        assert other


def test_a_killed_holder_frees_its_device_at_once() -> None:
    code = (
        "import time; from workers.computing import held\n"
        "with held(['gpu-a'], 1) as free: print(free, flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    told = holder.stdout.readline()
    with held(["gpu-a"], 1) as while_it_lives:
        pass

    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()

    assert (told, while_it_lives) == ("True\n", False)
    with held(["gpu-a"], 1) as afterwards:
        assert afterwards


def test_of_two_that_begin_together_one_has_all_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slow enough for the other to come between two of its locks."""

    def slowly(*given: Any, **named: Any) -> bool:
        time.sleep(0.001)
        return try_lock(*given, **named)

    monkeypatch.setattr(computing, "try_lock", slowly)
    names = core_names(Path("/a"), 8)
    rounds, both = threading.Barrier(2), threading.Barrier(2)
    got: list[bool] = []

    def train(names: list[str]) -> None:
        for _ in range(5):
            rounds.wait(20)
            with held(names, 8) as free:
                got.append(free)
                both.wait(20)

    threads = [threading.Thread(target=train, args=(order,)) for order in (names, names[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(got) == [False] * 5 + [True] * 5


def test_who_does_not_come_to_look_at_the_locks_waits_like_one_who_found_none(
    locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computing, "_GATE_SECONDS", 0.05)
    with held([], 0), (locks / "finstill-gate.lock").open() as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        with held(["gpu-a"], 1) as while_another_looks:
            pass
    with held(["gpu-a"], 1) as afterwards:
        assert (while_another_looks, afterwards) == (False, True)


def test_a_gpus_memory_is_given_back_before_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    settings = replace(settings_from_environment(), state=tmp_path, threads=usable_cores())
    others: list[bool] = []

    def give_back() -> None:
        with held(core_names(tmp_path, usable_cores()), 1) as free:
            others.append(free)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", give_back)

    with device_for_training(settings, 1) as first, device_for_training(settings, 1) as second:
        pass

    assert (first, bool(second)) == (None, True)
    assert others == [False]


def test_a_lock_that_cannot_be_made_is_a_sentence(locks: Path) -> None:
    (locks / "finstill-gpu-a.lock").symlink_to(locks / "elsewhere")

    with pytest.raises(ServiceError, match="set TMPDIR to a folder"), held(["gpu-a"], 1):
        pass


def test_cores_are_divided_among_the_processes_of_this_host_that_compute(
    client: redis.Redis,
) -> None:
    here, settings = socket.gethostname(), replace(settings_from_environment(), threads=12)
    shared, given = (replace(settings, divides_cores=each) for each in (True, False))

    assert threads_of(client, shared, "run", "evaluate:a") == 12
    note_worker(client, f"{here}:1", "train", concurrency=4)
    note_worker(client, f"{here}:2", "label", "evaluate", concurrency=2)
    note_worker(client, f"{here}:3", "label", concurrency=16)
    note_worker(client, "elsewhere:1", "train", concurrency=8)

    assert computing_processes(client) == 6
    assert threads_of(client, shared, "run", "evaluate:a") == 2
    assert threads_of(client, given, "run", "evaluate:a") == 12
    note_worker(client, f"{here}:4", "train", concurrency=100)
    assert threads_of(client, shared, "run", "evaluate:a") == 1


def test_the_names_of_workers_that_are_gone_are_forgotten(client: redis.Redis) -> None:
    note_worker(client, "north:1", "train")
    note_worker(client, "north:2", "train")
    client.delete("finstill:worker:north:1")

    assert [worker.name for worker in living_workers(client)] == ["north:2"]
    assert client.smembers("finstill:workers") == {b"north:2"}


def test_to_look_for_workers_does_not_go_through_all_that_redis_keeps(client: redis.Redis) -> None:
    client.mset({f"finstill:cache:{number}": "answer" for number in range(2000)})
    note_worker(client, "north:1", "train")
    client.config_resetstat()

    living_workers(client)

    calls = {name: asked["calls"] for name, asked in client.info("commandstats").items()}
    assert not {"cmdstat_scan", "cmdstat_keys"} & calls.keys()
    assert calls["cmdstat_get"] == 1


def test_a_training_goes_on_with_the_threads_it_began_with(client: redis.Redis) -> None:
    settings = replace(settings_from_environment(), threads=8, divides_cores=True)
    note_worker(client, f"{socket.gethostname()}:1", "train")
    looked = threads_of(client, settings, "run", "train:a")
    note_worker(client, f"{socket.gethostname()}:2", "train")

    began = threads_of(client, settings, "run", "train:a")
    keep_threads(client, "run", "train:a", began)
    note_worker(client, f"{socket.gethostname()}:3", "train", concurrency=2)
    keep_threads(client, "run", "train:a", 2)
    resumed, another = (threads_of(client, settings, "run", f"train:{s}") for s in "ab")
    forget_threads(client, "run", "train:a")

    assert (looked, began, resumed, another) == (8, 4, 4, 2)
    assert threads_of(client, settings, "run", "train:a") == 2


@pytest.mark.parametrize("order", ["{compute}; import torch", "import torch; {compute}"])
def test_threads_are_set_before_torch_is_imported_and_afterwards(order: str) -> None:
    compute = "from workers.services import compute_with; compute_with(2)"
    code = f"{order.format(compute=compute)}; print(torch.get_num_threads())"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    assert done.stdout == f"{min(2, usable_cores())}\n"  # torch takes no more than there are


def test_threads_of_the_environment_are_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINSTILL_THREADS", "3")
    given = settings_from_environment()
    monkeypatch.delenv("FINSTILL_THREADS")
    free = settings_from_environment()

    assert (given.threads, given.divides_cores) == (3, False)
    assert (free.threads, free.divides_cores) == (usable_cores(), True)


QUICK = [
    "data.train_limit=40",
    "data.test_limit=20",
    "training.max_steps=12",
    "training.evaluations=0",
    "training.checkpoint_every_steps=3",
    "student.tiny.hidden=32",
    "student.tiny.feed_forward=64",
]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with own_redis(tmp_path, lease_seconds=10.0) as found:
        yield found


PATIENT = {"FINSTILL_LEASE_SECONDS": "10", "FINSTILL_VISIBILITY_SECONDS": "20"}


def small_run(*overrides: str) -> RunConfig:
    config = load_config(CONFIGS / "demo.yaml", [*QUICK, *overrides])
    return config.model_copy(update={"baselines": {}})


def training_of(client: Client, run_id: str) -> StageRecord:
    stage = client.jobs.stage(run_id, "train:student")
    assert stage is not None
    return stage


def ended(client: Client, run_id: str) -> Job:
    wait_until(lambda: client.jobs.get(run_id).ended, "the job has ended", 150)
    return client.jobs.get(run_id)


@pytest.mark.services
def test_a_training_waits_for_the_device_says_so_and_loses_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    workers = Workers(settings, tmp_path, FINSTILL_THREADS=str(usable_cores()), **PATIENT)
    client = Client(settings)
    try:
        with ExitStack() as stack:
            assert stack.enter_context(held(core_names(settings.state, usable_cores()), 1))
            workers.start(concurrency=2)
            wait_until(lambda: living_workers(client.redis), "a worker is up")
            runs = [client.submit(small_run(f"training.seed={seed}"), "train") for seed in (1, 2)]
            for run in runs:
                wait_until(lambda: training_of(client, run.run_id).info, "it waits")  # noqa: B023
            waiting = [training_of(client, run.run_id) for run in runs]
        others = "waits for the device: other trainings have the cores on "
        assert [stage.state for stage in waiting] == [State.QUEUED] * 2
        assert [note(stage) for stage in waiting] == [others + socket.gethostname()] * 2
        assert [stage.done for stage in waiting] == [0, 0]

        together: list[bool] = []

        def both_ended() -> bool:
            states = [training_of(client, run.run_id).state for run in runs]
            together.append(states == [State.RUNNING] * 2)
            return all(client.jobs.get(run.run_id).ended for run in runs)

        wait_until(both_ended, "both have trained", 150)
        assert [client.jobs.get(run.run_id).state for run in runs] == [State.DONE] * 2
        assert not any(together)
        assert "waits" not in note(training_of(client, runs[0].run_id))
        losses = [client.redis.hgetall(f"finstill:job:{run.run_id}:losses") for run in runs]
        assert losses == [{}, {}]
    finally:
        workers.stop_all()
        client.close()


@pytest.mark.slow
@pytest.mark.services
def test_a_worker_without_a_number_of_threads_shares_the_cores_among_its_processes(
    settings: Settings, tmp_path: Path
) -> None:
    workers = Workers(settings, tmp_path, FINSTILL_THREADS="", OMP_NUM_THREADS="", **PATIENT)
    client = Client(settings)
    try:
        workers.start(concurrency=2)
        wait_until(lambda: living_workers(client.redis), "a worker is up")
        run = client.submit(small_run("training.max_steps=300"), "train")
        wait_until(lambda: training_of(client, run.run_id).done, "the training has begun")
        threads = client.redis.hgetall(f"finstill:job:{run.run_id}:threads")
        client.jobs.cancel(run.run_id)

        assert threads == {b"train:student": str(max(1, usable_cores() // 2)).encode()}
        assert ended(client, run.run_id).state is State.CANCELLED
    finally:
        workers.stop_all()
        client.close()


def test_a_screen_without_bars_says_once_what_a_stage_waits_for() -> None:
    screen = io.StringIO()
    display = JobDisplay(Console(file=screen, width=200))
    stages = [
        StageRecord(name="train:a", title="Train a", state=State.QUEUED,
                    info={"waits": "for the device: another training has the GPU on north"}),
        StageRecord(name="train:b", title="Train b", state=State.QUEUED),
    ]  # fmt: skip
    job = Job(id="r", kind="train", created_at=0, state=State.RUNNING, stages=stages)

    display(job)
    display(job)
    stages[0] = stages[0].model_copy(update={"info": {"note": "is trained by another (pid 7)"}})
    display(job.model_copy(update={"stages": stages}))
    display(job)

    assert screen.getvalue().splitlines() == [
        "Train a: queued waits for the device: another training has the GPU on north",
        "Train a: queued is trained by another (pid 7)",
    ]
