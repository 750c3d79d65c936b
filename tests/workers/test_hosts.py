"""Several hosts: workers with nothing in common but a Redis over TCP and the runs folder."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from common.config import load_config
from common.errors import ServiceError
from common.task import CONFIGS, PROJECT_ROOT
from workers.client import Client
from workers.embedded_redis import server_binary
from workers.job_records import State
from workers.registry import living_workers
from workers.services import Settings, connect
from workers.stack import child_environment

pytestmark = pytest.mark.services
PASSWORD = "two-hosts-one-redis"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A Redis on a TCP port, with a password, as a team would have it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(server_binary()), "--port", str(port), "--bind", "127.0.0.1", "--requirepass",
               PASSWORD, "--dir", str(tmp_path), "--appendonly", "yes", "--save", ""]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    until(lambda: answers(url))
    yield Settings(redis_url=url, runs=tmp_path / "shared", state=tmp_path / "client", threads=1)
    process.terminate()
    process.wait(10)


class Host:
    """A worker with a state folder, a working folder's logs and a session of its own."""

    def __init__(self, settings: Settings, folder: Path, queues: str):
        folder.mkdir()
        self.log = folder / "worker.log"
        environment = {
            **child_environment(replace(settings, state=folder / "state")),
            "FINSTILL_PARENT": "",
            "FINSTILL_VISIBILITY_SECONDS": "3",
            "FINSTILL_LEASE_SECONDS": "2",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers", "worker", "--queues", queues],
                cwd=PROJECT_ROOT, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def chunks(self) -> int:
        """How many chunks it has done."""
        lines = self.log.read_text().splitlines()
        return sum("finstill.label_chunk" in line and "succeeded" in line for line in lines)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def answers(url: str) -> bool:
    try:
        connect(url).close()
    except ServiceError:
        return False
    return True


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_hosts_share_a_job_and_one_finishes_when_the_other_is_gone(
    settings: Settings, tmp_path: Path
) -> None:
    config = load_config(
        CONFIGS / "demo.yaml", ["data.train_limit=400", "labelling.chunk_rows=5", "baselines={}"]
    )
    hosts = [
        Host(settings, tmp_path / "a", "label"),
        Host(settings, tmp_path / "b", "label,train,evaluate"),
    ]
    client = Client(settings)
    try:
        until(lambda: len(living_workers(client.redis)) == 2)
        run = client.submit(config, "label")
        until(lambda: all(host.chunks >= 2 for host in hosts))
        hosts[0].kill()
        until(lambda: client.jobs.get(run.run_id).ended)
        job = client.jobs.get(run.run_id)
    finally:
        client.close()
        for host in hosts:
            host.kill()

    assert job.state is State.DONE, job.fault
    assert job.counters["rows"] == 400
    assert hosts[0].chunks < 80  # it was killed at work
    assert len(list(run.labels.glob("chunks/*/*.parquet"))) == 80
    assert PASSWORD not in hosts[1].log.read_text()


def test_a_redis_with_a_password_lets_nobody_in_without(settings: Settings) -> None:
    assert settings.redis_url
    bare = settings.redis_url.replace(f":{PASSWORD}@", "")

    with pytest.raises(ServiceError, match="does not answer") as refused:
        connect(bare)
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(bare).ping()

    assert PASSWORD not in str(refused.value)
