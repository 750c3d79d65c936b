"""A training that its worker cannot go on with is handed back, and nothing of it is lost."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from rich.console import Console

from common.config import RunConfig, load_config
from common.task import CONFIGS
from student import alone
from student.alone import alone_in
from workers.desk import Desk
from workers.display import JobDisplay, note
from workers.execution import execute
from workers.graph import Stage
from workers.job_records import StageRecord, State
from workers.jobs import Jobs
from workers.orphans import Parent
from workers.pipeline import LocalRun
from workers.run_directory import RunDirectory, read_json
from workers.services import Settings, settings_from_environment
from workers.submitting import submit

TRAIN = "train:student"
SMALL = [
    "data.train_limit=40",
    "data.test_limit=20",
    "training.max_steps=6",
    "training.evaluations=1",
    "training.batch_size=8",
    "student.tiny.hidden=32",
    "student.tiny.feed_forward=64",
]


class Workplace:
    """A run whose training has been sent; what is sent is noted, with its delay."""

    def __init__(self, settings: Settings, client: redis.Redis, config: RunConfig):
        self.sent: list[tuple[str, float]] = []
        self.run: RunDirectory = done_alone(settings, config, "label")
        self.desk = Desk(settings, client, self._send)
        submit(self.desk, self.run, config, "train")
        assert self.sent.pop() == (TRAIN, 0.0)

    def _send(self, stage: Stage, run_id: str, chunk: int | None, countdown: float = 0.0) -> None:
        self.sent.append((stage.name, countdown))

    @property
    def jobs(self) -> Jobs:
        return self.desk.jobs

    def deliver(self) -> StageRecord:
        assert execute(self.desk, self.run.run_id, TRAIN)
        return self.record()

    def record(self) -> StageRecord:
        record = self.jobs.stage(self.run.run_id, TRAIN)
        assert record
        return record


def done_alone(settings: Settings, config: RunConfig, until: str) -> RunDirectory:
    local = LocalRun(settings, config, until, lambda job: None)
    local.execute()
    return local.run


def weights(run: RunDirectory) -> str:
    file = run.system("student") / "model" / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of this test's own: others train on this host too."""
    folder = tmp_path / "locks"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(
        settings_from_environment(), runs=tmp_path / "runs", state=tmp_path, threads=1,
        divides_cores=True,
    )  # fmt: skip


@pytest.fixture
def config() -> RunConfig:
    return load_config(CONFIGS / "demo.yaml", SMALL).model_copy(update={"baselines": {}})


@pytest.fixture
def place(settings: Settings, client: redis.Redis, config: RunConfig) -> Workplace:
    return Workplace(settings, client, config)


STOPPED_EARLY = ["training.evaluations=6", "training.patience=1", "training.min_improvement=9"]


def test_a_training_stopped_early_is_recorded_with_the_steps_it_made(
    settings: Settings, client: redis.Redis
) -> None:
    config = load_config(CONFIGS / "demo.yaml", [*SMALL, *STOPPED_EARLY])
    place = Workplace(settings, client, config.model_copy(update={"baselines": {}}))

    record = place.deliver()

    summary = read_json(place.run.training_summary("student"))
    assert summary["stopped_early"]
    assert (record.state, record.done, record.total) == (State.DONE, 2, 6)
    assert "eta_seconds" not in record.info
    assert record.info["note"] == f"stopped early, best at step {summary['best_step']}"
    assert "s left" not in note(record)


def test_a_run_alone_tells_the_steps_of_a_training_stopped_early_and_all_of_one_that_was_not(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {}
    for name, changes in (("early", STOPPED_EARLY), ("whole", [])):
        config = load_config(CONFIGS / "demo.yaml", [*SMALL, *changes])
        alone = LocalRun(
            settings,
            config.model_copy(update={"baselines": {}}),
            "train",
            lambda job: told.update({name: job}),  # noqa: B023
        )
        alone.execute()

    stages = {name: next(s for s in job.stages if s.name == TRAIN) for name, job in told.items()}
    assert {name: (s.done, s.total) for name, s in stages.items()} == {
        "early": (2, 6),
        "whole": (6, 6),
    }
    assert not [s for s in stages.values() if "eta_seconds" in s.info]
    with JobDisplay(Console(force_terminal=True, width=120)) as display:
        display(told["early"])
    assert "2/6" in capsys.readouterr().out


def test_a_worker_left_alone_hands_its_training_back_and_the_next_goes_on_from_there(
    place: Workplace,
    settings: Settings,
    config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def gone_at_the_third_step(parent: Parent) -> bool:
        asked.append(parent)
        return len(asked) == 3

    with monkeypatch.context() as patch:
        patch.setattr(Parent, "gone", gone_at_the_third_step)
        left = place.deliver()
    handed_back = list(place.sent)
    kept = [p.name for p in place.run.checkpoints("student").glob("checkpoint-*")]
    job = place.jobs.get(place.run.run_id)
    done = place.deliver()

    assert (left.state, left.done) == (State.QUEUED, 3)
    assert kept == ["checkpoint-3"]
    assert [name for name, _ in handed_back] == [TRAIN]
    assert not job.ended
    assert done.state is State.DONE
    undisturbed = done_alone(replace(settings, runs=tmp_path / "alone"), config, "train")
    assert weights(place.run) == weights(undisturbed)


def test_a_job_cancelled_while_its_worker_is_left_alone_is_cancelled(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone_and_cancelled(_: Parent) -> bool:
        place.jobs.cancel(place.run.run_id)
        return True

    monkeypatch.setattr(Parent, "gone", gone_and_cancelled)

    assert place.deliver().state is State.CANCELLED
    assert place.sent == []


def test_a_job_waits_for_a_local_run_that_trains_the_same_student(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "PATIENCE_SECONDS", 0.1)

    with alone_in(place.run.system("student"), lambda: False):
        waits = place.deliver()
        job = place.jobs.get(place.run.run_id)
    done = place.deliver()

    assert waits.state is State.QUEUED
    assert "is being trained by another process (pid " in note(waits)
    assert (job.ended, job.fault) == (False, None)
    assert [name for name, _ in place.sent] == [TRAIN]
    assert done.state is State.DONE


def test_what_a_training_waited_for_is_not_told_when_its_turn_has_come(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "PATIENCE_SECONDS", 0.1)
    told: list[str] = []

    def look(_: Parent) -> bool:
        told.append(note(place.record()))
        return False

    with alone_in(place.run.system("student"), lambda: False):
        place.deliver()
        first = place.record()
        monkeypatch.setattr(Parent, "gone", look)
        waits = place.deliver()

    assert "is being trained" in note(first)
    assert "is being trained" in note(waits)
    assert told
    assert not any("is being trained" in each for each in told)


def test_a_lease_that_was_lost_on_the_way_to_the_device_ends_the_delivery(
    place: Workplace, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held up by an import for longer than the lease lasts; its thread has not noticed."""
    lease = f"finstill:lease:{place.run.run_id}:{TRAIN}"
    threads = f"finstill:job:{place.run.run_id}:threads"

    @contextmanager
    def slow(*_: Any) -> Iterator[None]:
        client.set(lease, "another worker")
        yield

    with monkeypatch.context() as patch:
        patch.setattr("workers.execution.device_for_training", slow)
        taken = execute(place.desk, place.run.run_id, TRAIN)
        left, kept = client.get(lease), client.hgetall(threads)

    assert not taken
    assert (left, kept) == (b"another worker", {})
    assert place.record().state is State.QUEUED
    client.delete(lease)
    assert place.deliver().state is State.DONE
