"""A training's curve can be read while it is drawn, and holds each step once."""

import json
from pathlib import Path

import pytest

from student.progress import TrainingProgress
from workers import live_curve
from workers.live_curve import LiveCurve, read_curve
from workers.run_directory import RunDirectory
from workers.web.results import history


def at(step: int, validation: dict[str, float] | None = None) -> TrainingProgress:
    """The state after a step whose loss is its number."""
    return TrainingProgress(step, 100, 0.0, float(step), 0.5, 0.7, 1e-3, 2.0, 1.0, 1.0, 1.0,
                            validation)  # fmt: skip


def test_a_page_sees_every_step_without_waiting_for_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_curve, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(live_curve, "SHARE", 0.0)
    run = RunDirectory(tmp_path / "run-0123456789")
    curve = LiveCurve(run.live_curve("student"))

    for step in (1, 2, 3):
        curve.add(at(step))

    assert [(row["step"], row["loss"], row["grad_norm"]) for row in history(run, "student")] == [
        (1, 1.0, 2.0), (2, 2.0, 2.0), (3, 3.0, 2.0)]  # fmt: skip
    curve.end()
    assert history(run, "student") == []


def test_a_new_validation_is_written_at_once_and_only_once(tmp_path: Path) -> None:
    curve = LiveCurve(tmp_path / "live.jsonl")

    for step, judged in ((1, None), (2, None), (3, {"accuracy": 0.5}), (4, {"accuracy": 0.5})):
        curve.add(at(step, judged))

    rows = read_curve(tmp_path / "live.jsonl")
    assert [row["step"] for row in rows] == [1, 3]
    assert [row.get("eval_accuracy") for row in rows] == [None, 0.5]


def test_a_training_that_goes_on_from_a_checkpoint_has_no_step_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_curve, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(live_curve, "SHARE", 0.0)
    path = tmp_path / "live.jsonl"
    first = LiveCurve(path)
    for step in range(1, 8):
        first.add(at(step))
    with path.open("a") as stream:
        stream.write('{"step": 8, "lo')  # killed here; the checkpoint was at 5

    again = LiveCurve(path)
    for step in (6, 7):
        again.add(at(step))

    assert [row["step"] for row in read_curve(path)] == [1, 2, 3, 4, 5, 6, 7]
    assert all(json.loads(line) for line in path.read_text().splitlines())
