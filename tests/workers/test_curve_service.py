"""A curve through real workers, one of them killed: every point is there, nothing is done twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import load_config
from common.evaluation.render import render_html
from common.task import CONFIGS, PROJECT_ROOT
from workers.client import Client
from workers.curve import curve_places, default_line, draw_curve
from workers.embedded_redis import EmbeddedRedis
from workers.jobs import State
from workers.run_directory import RunDirectory
from workers.services import Settings, settings_from_environment
from workers.stack import child_environment

pytestmark = [pytest.mark.services, pytest.mark.slow]

QUICK = [
    "data.test_limit=60",
    "training.max_steps=12",
    "training.checkpoint_every_steps=4",
    "training.evaluations=1",
    "training.batch_size=8",
    "student.tiny.hidden=32",
    "student.tiny.feed_forward=64",
    "baselines.lora.training.max_steps=8",
    "baselines.lora.training.evaluations=1",
    "evaluation.rationale_rows=1",
    "evaluation.bootstrap=200",
]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    yield replace(
        settings_from_environment(),
        redis_url=server.url,
        runs=tmp_path / "runs",
        state=tmp_path,
        threads=1,
        lease_seconds=2.0,
    )
    server.stop()


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    environment = {
        **child_environment(settings),
        "FINSTILL_PARENT": "",
        "FINSTILL_VISIBILITY_SECONDS": "3",
        "FINSTILL_LEASE_SECONDS": "2",
    }
    running: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        with (tmp_path / f"worker-{len(running)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers", "worker", "--queues", "label,train,evaluate"],
                cwd=PROJECT_ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 400.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain until {what}"
        time.sleep(0.1)


def markers(runs: list[RunDirectory]) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for run in runs for p in (run.root / "stages").glob("*.json")}


def test_a_curve_survives_a_killed_worker_and_does_nothing_twice(
    settings: Settings, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    config = load_config(CONFIGS / "demo.yaml", QUICK)
    line = default_line(config)
    places = curve_places(config, [0.2, 1.0], seeds=2, line=line)
    worker = start()
    client = Client(settings)
    wait_until(lambda: bool(client.redis.keys("finstill:worker:*")), "the worker is up")

    runs = [client.submit(place.config) for place in places]
    wait_until(
        lambda: any(
            (stage := client.jobs.stage(run.run_id, "train:student")) and 0 < stage.done < 12
            for run in runs
        ),
        "a training has begun",
    )
    kill(worker)
    done_before = markers(runs)
    start()
    wait_until(lambda: all(client.jobs.get(run.run_id).ended for run in runs), "all have ended")

    assert {client.jobs.get(run.run_id).state for run in runs} == {State.DONE}
    finished = markers(runs)
    assert done_before.items() <= finished.items(), "what was finished was done again"
    again = [client.submit(place.config) for place in places]
    wait_until(lambda: all(client.jobs.get(run.run_id).ended for run in again), "seen as done")
    assert markers(again) == finished

    comparison = draw_curve(places, runs, line, "finstill curve configs/demo.yaml")

    curve = comparison.curve
    assert curve is not None
    points = [(p.fraction, p.training_examples, p.seeds) for p in curve.points]
    assert points == [(0.2, 162, [13, 14]), (1.0, 810, [13, 14])]
    assert curve.baseline == "LoRA (tiny Llama), labels only"
    assert len(curve.against_baseline) == 2
    assert "Accuracy by training size" in render_html(comparison)
    client.close()
