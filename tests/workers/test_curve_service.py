"""A curve through real workers, one of them killed: every point is there, nothing is done twice."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.config import load_config
from common.evaluation.render import render_html
from common.task import CONFIGS
from tests.doubles.workers import Workers, own_redis, wait_until
from workers.client import Client
from workers.curve import curve_places, default_line, draw_curve
from workers.job_records import State
from workers.run_directory import RunDirectory
from workers.services import Settings

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
    with own_redis(tmp_path) as found:
        yield found


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[Workers]:
    found = Workers(settings, tmp_path)
    yield found
    found.stop_all()


def wait_long(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, what, 400)


def markers(runs: list[RunDirectory]) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for run in runs for p in (run.root / "stages").glob("*.json")}


def test_a_curve_survives_a_killed_worker_and_does_nothing_twice(
    settings: Settings, workers: Workers
) -> None:
    config = load_config(CONFIGS / "demo.yaml", QUICK)
    line = default_line(config)
    places = curve_places(config, [0.2, 1.0], seeds=2, line=line)
    worker = workers.start()
    client = Client(settings)
    wait_long(lambda: bool(client.redis.keys("finstill:worker:*")), "the worker is up")

    runs = [client.submit(place.config) for place in places]
    wait_long(
        lambda: any(
            (stage := client.jobs.stage(run.run_id, "train:student")) and 0 < stage.done < 12
            for run in runs
        ),
        "a training has begun",
    )
    workers.kill(worker)
    done_before = markers(runs)
    workers.start()
    wait_long(lambda: all(client.jobs.get(run.run_id).ended for run in runs), "all have ended")

    assert {client.jobs.get(run.run_id).state for run in runs} == {State.DONE}
    finished = markers(runs)
    assert done_before.items() <= finished.items(), "what was finished was done again"
    again = [client.submit(place.config) for place in places]
    wait_long(lambda: all(client.jobs.get(run.run_id).ended for run in again), "seen as done")
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
