"""Message batches through real worker processes and real HTTP: the service's double is in tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.config import RunConfig, load_config
from common.data.store import read_records
from common.records import Answer, TeacherAnswer
from common.task import CONFIGS
from tests.doubles.wire_double import WireDouble
from tests.doubles.workers import Workers, own_redis, wait_until
from workers.client import Client
from workers.job_records import State
from workers.registry import living_workers
from workers.services import Settings

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
    with own_redis(tmp_path, anthropic_api_key=double.key, anthropic_base_url=double.url) as found:
        yield found


@pytest.fixture
def workers(settings: Settings, tmp_path: Path, double: Any) -> Iterator[Workers]:
    found = Workers(settings, tmp_path, ANTHROPIC_API_KEY=double.key, ANTHROPIC_BASE_URL=double.url)
    yield found
    found.stop_all()


def config() -> RunConfig:
    limits = (f"data.train_limit={ROWS}", "data.test_limit=30", "labelling.smoke_rows=4")
    found = load_config(CONFIGS / "demo.yaml", [TEACHER, *limits, "labelling.probe.rows=0"])
    return found.model_copy(update={"baselines": {}})


def test_a_job_in_batches_outlives_its_worker_and_pays_each_row_once(
    settings: Settings, workers: Workers, double: Any
) -> None:
    def fate(batch: Any, index: int, key: str) -> str:
        first = batch is next(iter(double.batches.values()))
        return "expired" if first and index < 10 else "errored" if first and index == 10 else "ok"

    double.batch_fate = lambda *what: "succeeded" if fate(*what) == "ok" else fate(*what)
    worker = workers.start()
    client = Client(settings)
    wait_until(lambda: living_workers(client.redis), "a worker is up")

    run = client.submit(config(), "label")
    wait_until(lambda: double.batches, "a batch is submitted")
    wait_until(lambda: looked_at(double) >= 2, "the worker looked at it again, and did not wait")
    workers.kill(worker)
    workers.start()
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
