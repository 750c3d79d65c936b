"""Lines of a worker name the job at work, as text and as JSON."""

import json
import logging
import sys
from typing import Any

import pytest
from celery import signals

from workers.logs import JsonLines, log_as


@pytest.fixture
def quiet_signals() -> Any:
    """Whatever is connected here is gone afterwards."""
    kinds = (signals.after_setup_logger, signals.after_setup_task_logger, signals.task_prerun,
             signals.task_postrun)  # fmt: skip
    before = [list(kind.receivers or []) for kind in kinds]
    yield
    for kind, receivers in zip(kinds, before, strict=True):
        kind.receivers = receivers
        getattr(kind, "sender_receivers_cache", {}).clear()  # absent from the type stubs


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_names_the_job_of_the_task_at_work(
    quiet_signals: None, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.Logger("worker")
    logger.addHandler(logging.StreamHandler())
    log_as(form)
    signals.after_setup_logger.send(None, logger=logger)

    signals.task_prerun.send(None, task_id="x", args=("demo-0123456789", "collect"))
    logger.warning("slow")
    signals.task_postrun.send(None, task_id="x")
    logger.warning("idle")

    slow, idle = capsys.readouterr().err.splitlines()
    if form == "json":
        assert json.loads(slow)["job_id"] == "demo-0123456789"
        assert json.loads(slow)["message"] == "slow"
        assert json.loads(idle)["job_id"] == "-"
    else:
        assert slow.endswith("demo-0123456789 slow")
        assert idle.endswith("- idle")


def test_an_error_is_one_line_of_json() -> None:
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        record = logging.Logger("x").makeRecord(
            "x", logging.ERROR, "f", 1, "it %s", ("failed",), sys.exc_info()
        )

    line = JsonLines().format(record)

    assert "\n" not in line
    assert json.loads(line)["message"] == "it failed"
    assert "in two" in json.loads(line)["error"]
