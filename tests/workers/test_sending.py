"""Putting a task on the queue while the broker comes and goes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from kombu.transport.redis import Channel

from common.config import validate_config
from workers.celery_app import app
from workers.desk import Desk
from workers.embedded_redis import EmbeddedRedis
from workers.execution import execute
from workers.graph import Stage
from workers.run_directory import create_run
from workers.services import kombu_url, settings_from_environment
from workers.submitting import submit
from workers.tasks import send

STAGE = Stage("prepare", "label", (), "Prepare")


def test_a_broker_that_is_away_is_told_like_any_redis_that_is(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    url = kombu_url(server.url)
    server.stop()

    with app.connection_for_write(url) as connection, pytest.raises(redis.ConnectionError):
        send(STAGE, "small-1", None, connection=connection)


def test_a_channel_that_closed_under_a_message_is_no_fault_of_ours(
    server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(channel: Channel, asynchronous: bool = False) -> None:
        """What kombu says when Redis ended and came back while it sent."""
        raise AttributeError("'NoneType' object has no attribute 'client'")

    with app.connection_for_write(kombu_url(server.url)) as connection:
        assert connection.default_channel
        monkeypatch.setattr(Channel, "_get_pool", closed)
        with pytest.raises(redis.ConnectionError):
            send(STAGE, "small-1", None, connection=connection)


def test_a_task_that_is_done_before_its_sending_is_recorded_stays_done(
    client: redis.Redis, tmp_path: Path
) -> None:
    """A slow submitter and quick workers: the whole job runs inside the first sending."""
    rows = [{"id": f"r{i}", "text": f"Sales rose by {i}.", "split": "train"} for i in range(6)]
    rows += [{"id": "t", "text": "Sales fell.", "split": "test", "label": "negative"}]
    said = [
        {"id": f"r{i}", "label": "positive", "rationale": "Sales went up again."} for i in range(6)
    ]
    for name, table in (("rows", rows), ("said", said)):
        lines = "".join(json.dumps(row) + "\n" for row in table)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    tree = {
        "name": "quick",
        "task": "sentiment",
        "data": {"kind": "jsonl", "path": str(tmp_path / "rows.jsonl"), "validation_share": 0.0,
                 "split": {"kind": "column"}},
        "teacher": {"kind": "recorded", "name": "t", "answers": str(tmp_path / "said.jsonl")},
        "labelling": {"chunk_rows": 2, "probe": {"rows": 0}},
        "baselines": {"majority": {"kind": "majority"}},
    }  # fmt: skip
    config = validate_config(tree, "test")
    settings = replace(settings_from_environment(), runs=tmp_path / "runs")

    def at_once(stage: Stage, run_id: str, chunk: int | None, countdown: float = 0.0) -> None:
        assert execute(desk, run_id, stage.name, chunk)

    desk = Desk(settings, client, at_once)
    run = create_run(settings.runs, config)
    submit(desk, run, config, "label")

    job = desk.jobs.get(run.run_id)
    assert job.fault is None, job.fault
    assert {stage.name: stage.state.value for stage in job.stages} == dict.fromkeys(
        ("prepare", "probe", "label", "collect"), "done"
    )
    assert next(stage for stage in job.stages if stage.name == "label").total == 6
    assert desk.jobs.totals()["done"] == 6 + 6, "the smoke run and the chunks"
