"""How cores and devices are shared by the workers of a host."""

import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from rich.console import Console

from common.config import RunConfig, load_config
from common.errors import ServiceError
from common.task import CONFIGS, PROJECT_ROOT
from tests.doubles.workers import Workers, own_redis, wait_until
from workers.client import Client
from workers.computing import core_names, forget_threads, held, threads_of
from workers.display import JobDisplay, note
from workers.job_records import Job, StageRecord, State
from workers.registry import WorkerRecord, computing_processes, living_workers
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


def test_a_lock_that_cannot_be_made_is_a_sentence(locks: Path) -> None:
    (locks / "finstill-gpu-a.lock").symlink_to(locks / "elsewhere")

    with pytest.raises(ServiceError, match="set TMPDIR to a folder"), held(["gpu-a"], 1):
        pass


def worker(client: redis.Redis, name: str, queues: list[str], concurrency: int) -> None:
    record = WorkerRecord(name=name, queues=queues, pid=1, started_at=0, concurrency=concurrency)
    client.set(f"finstill:worker:{name}", record.model_dump_json())


def test_cores_are_divided_among_the_processes_of_this_host_that_compute(
    client: redis.Redis,
) -> None:
    here, settings = socket.gethostname(), replace(settings_from_environment(), threads=12)
    shared, given = (replace(settings, divides_cores=each) for each in (True, False))

    assert threads_of(client, shared, "run", "evaluate:a") == 12
    worker(client, f"{here}:1", ["train"], 4)
    worker(client, f"{here}:2", ["label", "evaluate"], 2)
    worker(client, f"{here}:3", ["label"], 16)
    worker(client, "elsewhere:1", ["train"], 8)

    assert computing_processes(client) == 6
    assert threads_of(client, shared, "run", "evaluate:a") == 2
    assert threads_of(client, given, "run", "evaluate:a") == 12
    worker(client, f"{here}:4", ["train"], 100)
    assert threads_of(client, shared, "run", "evaluate:a") == 1


def test_a_training_goes_on_with_the_threads_it_began_with(client: redis.Redis) -> None:
    settings = replace(settings_from_environment(), threads=8, divides_cores=True)
    worker(client, f"{socket.gethostname()}:1", ["train"], 2)

    began = threads_of(client, settings, "run", "train:a")
    worker(client, f"{socket.gethostname()}:2", ["train"], 2)
    resumed, another = (threads_of(client, settings, "run", f"train:{s}") for s in "ab")
    forget_threads(client, "run", "train:a")

    assert (began, resumed, another) == (4, 4, 2)
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
    with own_redis(tmp_path) as found:
        yield found


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
    workers = Workers(settings, tmp_path, FINSTILL_THREADS=str(usable_cores()))
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


@pytest.mark.services
def test_a_worker_without_a_number_of_threads_shares_the_cores_among_its_processes(
    settings: Settings, tmp_path: Path
) -> None:
    workers = Workers(settings, tmp_path, FINSTILL_THREADS="", OMP_NUM_THREADS="")
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

    wanted = "Train a: queued waits for the device: another training has the GPU on north\n"
    assert screen.getvalue() == wanted
