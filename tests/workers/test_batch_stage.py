"""Message batches as a stage of a run: no worker waits, and a cancelled job still collects."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from common.config import RunConfig, load_config
from common.errors import ConfigError
from common.task import CONFIGS
from workers.desk import Desk
from workers.execution import execute
from workers.graph import Stage, fingerprint, stages_of
from workers.job_records import State
from workers.run_directory import create_run
from workers.services import settings_from_environment
from workers.submitting import submit

BATCHED = "teacher={kind: claude, model: claude-haiku-5-5, mode: batch, name: claude}"


def config() -> RunConfig:
    return load_config(CONFIGS / "demo.yaml", [BATCHED])


class Outbox:
    """Notes what would be sent, and when."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int | None, float]] = []

    def __call__(
        self, stage: Stage, run_id: str, chunk: int | None, countdown: float = 0.0
    ) -> None:
        self.sent.append((stage.name, chunk, countdown))


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def desk(client: redis.Redis, tmp_path: Path, outbox: Outbox) -> Desk:
    settings = replace(settings_from_environment(), runs=tmp_path, visibility_seconds=4)
    return Desk(settings, client, outbox)


def test_a_teacher_in_batch_mode_adds_a_stage_before_labelling() -> None:
    names = list(stages_of(config()))

    assert names[:5] == ["prepare", "probe", "batch", "label", "collect"]
    assert "batch" not in stages_of(load_config(CONFIGS / "demo.yaml"))


def test_a_stage_that_waits_is_sent_once_more_however_often_it_is_delivered(
    desk: Desk, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run(desk.settings.runs, config())
    for name in ("prepare", "probe"):
        run.mark_done(name, fingerprint(config(), name), 1.0)
    submit(desk, run, config())
    assert outbox.sent == [("batch", None, 0.0)]
    monkeypatch.setattr("workers.execution.run_stage", lambda context, stage: 300.0)

    assert execute(desk, run.run_id, "batch")
    assert execute(desk, run.run_id, "batch")

    assert outbox.sent[1:] == [("batch", None, 2.0)], "half the visibility timeout, one copy"
    record = desk.jobs.stage(run.run_id, "batch")
    assert record is not None
    assert record.state is State.QUEUED
    time.sleep(1.9)
    assert execute(desk, run.run_id, "batch")
    assert len(outbox.sent) == 3, "the next look is sent when the last one is due"


def test_a_cascade_cannot_wait_for_batches() -> None:
    second = "{kind: recorded, answers: demo/claude_answers_train.jsonl, name: first}"
    batched = BATCHED.removeprefix("teacher=")

    with pytest.raises(ConfigError, match="cannot wait for batches"):
        load_config(
            CONFIGS / "demo.yaml",
            ["teacher=null", f"teachers=[{second}, {batched}]", "aggregation={kind: cascade}"],
        )
