"""Message batches through real worker processes and real HTTP: the service's double is in tests."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.config import RunConfig, load_config
from common.data.store import read_records
from common.records import Answer, TeacherAnswer
from common.task import CONFIGS, PROJECT_ROOT
from tests.doubles.wire_double import WireDouble
from workers.client import Client
from workers.embedded_redis import EmbeddedRedis
from workers.jobs import State
from workers.registry import living_workers
from workers.services import Settings, settings_from_environment
from workers.stack import child_environment

pytestmark = pytest.mark.services

ROWS = 120
TEACHER = "teacher={kind: claude, model: claude-haiku-5-5, mode: batch, name: claude}"


@pytest.fixture
def double() -> Iterator[Any]:
    with WireDouble() as running:
        running.end_batches = False
        yield running


@pytest.fixture
def settings(tmp_path: Path, double: Any) -> Iterator[Settings]:
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    yield replace(
        settings_from_environment(),
        redis_url=server.url,
        runs=tmp_path / "runs",
        state=tmp_path,
        threads=1,
        lease_seconds=2.0,
        anthropic_api_key=double.key,
        anthropic_base_url=double.url,
    )
    server.stop()


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a worker for all queues; whatever was started ends with the test."""
    running: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        environment = {
            **child_environment(settings),
            "ANTHROPIC_API_KEY": str(settings.anthropic_api_key),
            "ANTHROPIC_BASE_URL": str(settings.anthropic_base_url),
            "FINSTILL_PARENT": "",
            "FINSTILL_VISIBILITY_SECONDS": "3",
            "FINSTILL_LEASE_SECONDS": "2",
        }
        log = (tmp_path / f"worker-{len(running)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "workers", "worker", "--queues", "label,train,evaluate"],
            cwd=PROJECT_ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def config() -> RunConfig:
    limits = (f"data.train_limit={ROWS}", "data.test_limit=30", "labelling.smoke_rows=4")
    found = load_config(CONFIGS / "demo.yaml", [TEACHER, *limits, "labelling.probe.rows=0"])
    return found.model_copy(update={"baselines": {}})


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain until {what}"
        time.sleep(0.05)


def test_a_job_in_batches_outlives_its_worker_and_pays_each_row_once(
    settings: Settings, start: Callable[[], subprocess.Popen[bytes]], double: Any
) -> None:
    def fate(batch: Any, index: int, key: str) -> str:
        first = batch is next(iter(double.batches.values()))
        return "expired" if first and index < 10 else "errored" if first and index == 10 else "ok"

    double.batch_fate = lambda *what: "succeeded" if fate(*what) == "ok" else fate(*what)
    worker = start()
    client = Client(settings)
    wait_until(lambda: living_workers(client.redis), "a worker is up")

    run = client.submit(config(), "label")
    wait_until(lambda: double.batches, "a batch is submitted")
    wait_until(lambda: looked_at(double) >= 2, "the worker looked at it again, and did not wait")
    kill(worker)
    start()
    double.end_batches = True
    wait_until(lambda: client.jobs.get(run.run_id).ended, "the job has ended", 90)
    job = client.jobs.get(run.run_id)

    assert job.state is State.DONE, job.fault
    answers = [
        answer
        for file in sorted((run.labels / "chunks").glob("*/*.parquet"))
        for answer in read_records(file, Answer)
    ]
    assert sum(isinstance(answer, TeacherAnswer) for answer in answers) == ROWS
    assert double.paid.total() == ROWS, "none twice, the smoke rows included"
    assert len(double.batches) == 2, "what expired and what failed was asked in a second batch"
    client.close()


def looked_at(double: Any) -> int:
    """How often somebody asked how a batch stands."""
    return sum(s.method == "GET" and "/batches/" in s.path for s in double.seen)
