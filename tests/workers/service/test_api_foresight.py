"""
Over HTTP a student's mistake is refused as well; one that depends on the host, where that trains.
"""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from common.task import CONFIGS
from tests.doubles.workers import note_worker
from workers.api import submission


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prompt": "nosuch"}, "no student prompt 'nosuch'"),
        ({"tiny": {"family": "llama"}}, "'llama' cannot be trained as seq2seq"),
    ],
)
def test_a_student_that_cannot_be_trained_is_a_422_and_no_job(
    web: TestClient,
    submitter: dict[str, str],
    inline: Callable[..., dict[str, Any]],
    uploads: list[str],
    client: redis.Redis,
    change: dict[str, Any],
    sentence: str,
) -> None:
    config = inline(*uploads)
    config["student"] |= change

    answer = web.post("/v1/jobs", json={"inline": config}, headers=submitter)

    assert answer.status_code == 422, answer.text
    assert sentence in answer.json()["detail"]
    assert client.zcard("finstill:jobs") == 0


@pytest.mark.parametrize(("trains_here", "status"), [(True, 422), (False, 202)])
def test_a_missing_package_is_told_before_the_bill_where_this_host_trains(
    web: TestClient,
    submitter: dict[str, str],
    client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trains_here: bool,
    status: int,
) -> None:
    """By a config of the operator's; the worker of these tests is on another host."""
    demo = (CONFIGS / "demo.yaml").read_text().replace(" demo/", f" {CONFIGS}/demo/")
    told = demo.replace("\ntraining:\n", "\ntraining:\n  report_to: [flyte]\n", 1)
    (tmp_path / "told.yaml").write_text(told)
    monkeypatch.setattr(submission, "CONFIGS", tmp_path)
    if trains_here:
        client.delete("finstill:worker:host:1")
        note_worker(client, f"{socket.gethostname()}:7", "label", "train", "evaluate")

    answer = web.post("/v1/jobs", json={"config": "told"}, headers=submitter)

    assert answer.status_code == status, answer.text
    assert ("'flyte' is not installed" in answer.text) == trains_here
    assert client.zcard("finstill:jobs") == (0 if trains_here else 1)
