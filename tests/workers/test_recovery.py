"""Real worker processes on a real Redis: the job ends right, whoever is killed on the way."""

import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import RunConfig, load_config
from common.task import CONFIGS
from tests.doubles.workers import Workers, own_redis, wait_until
from workers.client import Client
from workers.job_records import Job, State
from workers.pipeline import LocalRun
from workers.registry import living_workers
from workers.services import Settings

pytestmark = pytest.mark.services

QUICK = [
    "data.train_limit=160",
    "data.test_limit=60",
    "labelling.chunk_rows=40",
    "training.max_steps=24",
    "training.checkpoint_every_steps=5",
    "training.evaluations=2",
    "training.batch_size=8",
    "student.tiny.hidden=32",
    "student.tiny.feed_forward=64",
    "evaluation.rationale_rows=4",
    "evaluation.bootstrap=100",
]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with own_redis(tmp_path) as found:
        yield found


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[Workers]:
    found = Workers(settings, tmp_path)
    yield found
    found.stop_all()


def quick_config(*overrides: str) -> RunConfig:
    config = load_config(CONFIGS / "demo.yaml", [*QUICK, *overrides])
    baselines = {name: config.baselines[name] for name in ("majority", "tfidf")}
    return config.model_copy(update={"baselines": baselines})


def wait_for_workers(client: Client, count: int) -> None:
    wait_until(lambda: len(living_workers(client.redis)) >= count, "workers are up")


def training_step(client: Client, run_id: str) -> int:
    stage = client.jobs.stage(run_id, "train:student")
    return stage.done if stage else 0


def ended(client: Client, run_id: str) -> Job:
    wait_until(lambda: client.jobs.get(run_id).ended, "the job has ended", 150)
    return client.jobs.get(run_id)


def weights(folder: Path) -> str:
    files = sorted((folder / "systems" / "student" / "model").glob("*.safetensors"))
    assert files
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def done_alone(config: RunConfig, settings: Settings, folder: Path, until: str) -> LocalRun:
    """The same run in this process, which nobody kills."""
    alone = replace(settings, runs=folder / "alone")
    undisturbed = LocalRun(alone, config, until, lambda job: None)
    undisturbed.execute()
    return undisturbed


def test_a_job_survives_kill_9_of_its_workers_and_ends_as_if_undisturbed(
    settings: Settings, workers: Workers, tmp_path: Path
) -> None:
    config = quick_config()
    undisturbed = done_alone(config, settings, tmp_path, "report")
    workers.start("label")
    trainer = workers.start("train,evaluate")
    client = Client(settings)
    wait_for_workers(client, 2)

    run = client.submit(config)
    wait_until(lambda: training_step(client, run.run_id) >= 8, "the training has begun")
    workers.kill(trainer)
    workers.start("train,evaluate")
    job = ended(client, run.run_id)

    assert job.state is State.DONE, job.fault
    assert run.report("html").exists()
    assert weights(run.root) == weights(undisturbed.run.root)
    assert job.counters["rows"] == 160
    client.close()


@pytest.mark.slow
def test_five_kill_9_of_the_training_worker_at_random_leave_the_same_weights(
    settings: Settings, workers: Workers, tmp_path: Path
) -> None:
    draw = random.Random(5)
    config = quick_config("training.max_steps=150")
    undisturbed = done_alone(config, settings, tmp_path, "train")
    workers.start("label")
    trainer = workers.start("train,evaluate")
    client = Client(settings)
    wait_for_workers(client, 2)
    run = client.submit(config, "train")
    killed_at = []

    for begin in range(0, 125, 25):
        target = begin + draw.randrange(3, 25)
        wait_until(lambda: training_step(client, run.run_id) >= target, f"step {target}")  # noqa: B023
        time.sleep(draw.uniform(0, 0.1))  # anywhere within a step or a checkpoint
        workers.kill(trainer)
        killed_at.append(training_step(client, run.run_id))
        assert not client.jobs.get(run.run_id).ended
        trainer = workers.start("train,evaluate")
    job = ended(client, run.run_id)

    assert job.state is State.DONE, job.fault
    assert killed_at[0] > 0
    assert killed_at[-1] < 150
    assert weights(run.root) == weights(undisturbed.run.root)
    print(f"killed at steps {killed_at}; weights {weights(run.root)}")
    client.close()


def test_cancelling_stops_at_a_safe_point_and_resuming_finishes(
    settings: Settings, workers: Workers, tmp_path: Path
) -> None:
    # The only checkpoint before the end is the one that cancelling writes.
    rare = ["training.checkpoint_every_steps=1000", "training.evaluations=1"]
    config = quick_config("training.max_steps=120", *rare)
    undisturbed = done_alone(config, settings, tmp_path, "train")
    workers.start("label")
    workers.start("train,evaluate")
    client = Client(settings)
    wait_for_workers(client, 2)

    run = client.submit(config, "train")
    wait_until(lambda: training_step(client, run.run_id) >= 3, "the training has begun")
    client.jobs.cancel(run.run_id)
    job = ended(client, run.run_id)

    at = training_step(client, run.run_id)
    kept = [path.name for path in run.checkpoints("student").glob("checkpoint-*")]

    assert job.state is State.CANCELLED
    assert 3 <= at < 120
    assert kept == [f"checkpoint-{at}"]
    assert not (run.system("student") / "model").exists()

    client.submit(config, "train")
    resumed = ended(client, run.run_id)

    assert resumed.state is State.DONE, resumed.fault
    assert (
        f"resuming student from checkpoint-{at}" in (tmp_path / "train,evaluate-1.log").read_text()
    )
    assert weights(run.root) == weights(undisturbed.run.root)
    client.close()


def test_a_fault_of_the_users_ends_the_job_with_its_sentence(
    settings: Settings, workers: Workers, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "a", "text": "x", "label": "splendid", "split": "test"}\n')
    workers.start("label,train,evaluate")
    client = Client(settings)
    wait_for_workers(client, 1)

    run = client.submit(quick_config(f"data.path={broken}"))
    job = ended(client, run.run_id)

    assert job.state is State.FAILED
    assert job.fault is not None
    assert "splendid" in job.fault.message
    assert job.fault.exit_code == 2
    client.close()
