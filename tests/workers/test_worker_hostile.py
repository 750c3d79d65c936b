"""What is pushed straight into the broker: pickles, unknown tasks and forged arguments."""

import base64
import json
import os
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from workers.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).resolve().parents[2]
QUEUE = "finstill:celery:label"

pytestmark = pytest.mark.services


@pytest.fixture
def worker(tmp_path: Path, server: EmbeddedRedis, client: redis.Redis) -> Iterator[Path]:
    """A real worker process on the label queue; its log."""
    log = tmp_path / "worker.log"
    environment = {**os.environ, "REDIS_URL": server.url, "FINSTILL_RUNS": str(tmp_path / "runs"),
                   "FINSTILL_STATE": str(tmp_path / "state"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = [sys.executable, "-m", "workers", "worker", "--queues", "label"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream)
    try:
        wait_for(lambda: client.keys("finstill:worker:*"))
        yield log
        assert process.poll() is None, "the worker died of a message"
    finally:
        process.terminate()
        process.wait(30)


def wait_for(attempt: Any, seconds: float = 25) -> None:
    deadline = time.monotonic() + seconds
    while not attempt():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, target: str):
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, (self.target, "w"))


def push(client: redis.Redis, body: bytes, kind: str, task: str) -> None:
    """A message as kombu would write it."""
    name = str(uuid.uuid4())
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "binary" if kind != "application/json" else "utf-8",
        "content-type": kind,
        "headers": {"lang": "py", "task": task, "id": name, "root_id": name, "parent_id": None,
                    "group": None, "argsrepr": "", "kwargsrepr": "", "retries": 0, "eta": None,
                    "expires": None, "timelimit": [None, None]},
        "properties": {"correlation_id": name, "reply_to": name, "delivery_mode": 2,
                       "delivery_info": {"exchange": "", "routing_key": "label"},
                       "priority": 0, "body_encoding": "base64", "delivery_tag": name},
    }  # fmt: skip
    client.lpush(QUEUE, json.dumps(message))


def forged(*arguments: Any) -> bytes:
    return json.dumps([list(arguments), {}, {"callbacks": None, "errbacks": None, "chain": None,
                                             "chord": None}]).encode()  # fmt: skip


def test_nothing_forged_is_done_and_the_worker_lives_on(
    worker: Path, client: redis.Redis, tmp_path: Path
) -> None:
    target = tmp_path / "made-by-a-pickle"
    secret = tmp_path / "elsewhere"
    secret.mkdir()
    (secret / "config.json").write_text("{}")
    bomb = pickle.dumps(((Bomb(str(target)),), {}, {}))
    push(client, bomb, "application/x-python-serialize", "finstill.run_stage")
    push(client, bomb, "application/data", "finstill.run_stage")
    push(client, b"{not json", "application/json", "finstill.run_stage")
    push(client, forged("a", "b"), "application/json", "os.system")
    client.lpush(QUEUE, b"")
    forgeries: list[tuple[Any, ...]] = [
        ("../elsewhere", "prepare"),
        (str(secret), "prepare"),
        ("x-0123456789", "prepare"),
        ("x-0123456789", "no-such-stage"),
        ({"a": 1}, ["b"]),
        (None, None),
        (),
        ("x" * 100_000, "prepare"),
        ("a\x00b", "prepare"),
    ]
    for arguments in forgeries:
        push(client, forged(*arguments), "application/json", "finstill.run_stage")
    push(client, forged("x-0123456789", -1), "application/json", "finstill.label_chunk")
    push(client, forged("x-0123456789", "0"), "application/json", "finstill.label_chunk")

    wait_for(lambda: client.llen(QUEUE) == 0)
    wait_for(lambda: client.zcard("finstill:celery:unacked_index") == 0)
    time.sleep(1)

    assert not target.exists()
    assert not (secret / "stages").exists()
    assert not (tmp_path / "runs").exists() or list((tmp_path / "runs").iterdir()) == []
    assert client.zcard("finstill:jobs") == 0
    told = worker.read_text()
    assert told.count("Received invalid task message") == 13
    assert "unregistered task of type 'os.system'" in told
    assert "is no message and is dropped" in told
