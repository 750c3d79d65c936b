"""A server that shares no folder with its workers: their runs come by way of the store."""

import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from starlette.testclient import TestClient

from tests.doubles.workers import wait_until
from workers.api import following
from workers.api.app import create_app
from workers.job_records import StageRecord, State
from workers.jobs import Jobs
from workers.services import Settings
from workers.store import RunStore


def test_runs_that_other_hosts_make_are_shown_and_go_on_being_fetched(
    settings: Settings,
    client: redis.Redis,
    finished: Path,
    tmp_path: Path,
    reader: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.05)
    address = f"memory://{uuid.uuid4().hex}"
    run_id = next(finished.glob("small-*")).name
    there = shutil.copytree(finished, tmp_path / "elsewhere")
    elsewhere = RunStore(address, there)
    elsewhere.send(run_id)
    app = create_app(replace(settings, store=address))

    with TestClient(app, base_url="http://127.0.0.1") as web:

        def has(path: str) -> Callable[[], bool]:
            return lambda: web.get(path, headers=reader).status_code == 200

        wait_until(has(f"/v1/runs/{run_id}/report"), "the run of before the start is shown", 20)

        later = there / run_id / "systems" / "student" / "elsewhere" / "texts.parquet"
        later.parent.mkdir(parents=True)
        later.write_bytes(b"more")
        elsewhere.send(run_id)
        done = StageRecord(name="report", title="Report", state=State.DONE)
        Jobs(client).submit(run_id, "report", [done])
        here = settings.runs / later.relative_to(there)
        wait_until(here.exists, "a stage that ended brings its files", 20)
