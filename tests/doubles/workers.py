"""Real worker processes on a real Redis of their own, started and killed as a test likes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.task import PROJECT_ROOT
from workers.embedded_redis import EmbeddedRedis
from workers.registry import WorkerRecord
from workers.services import Settings, settings_from_environment
from workers.stack import child_environment

if TYPE_CHECKING:
    import redis

EVERY_QUEUE = "label,train,evaluate"


@contextmanager
def own_redis(folder: Path, **changes: Any) -> Iterator[Settings]:
    """Settings of an installation in `folder` with a server of its own."""
    server = EmbeddedRedis(folder / "redis")
    server.start()
    try:
        yield replace(
            settings_from_environment(),
            redis_url=server.url,
            runs=folder / "runs",
            state=folder,
            threads=1,
            **{"lease_seconds": 2.0, **changes},
        )
    finally:
        server.stop()


class Workers:
    """Worker processes, each in a session of its own; their logs lie in `folder`."""

    def __init__(self, settings: Settings, folder: Path, **environment: str):
        self._folder = folder
        self._environment = {
            **child_environment(settings),
            "FINSTILL_PARENT": "",
            "FINSTILL_VISIBILITY_SECONDS": "3",
            "FINSTILL_LEASE_SECONDS": "2",
            **environment,
        }
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, queues: str = EVERY_QUEUE, concurrency: int = 1) -> subprocess.Popen[bytes]:
        """One more worker, which listens a moment later."""
        command = [sys.executable, "-m", "workers", "worker", "--queues", queues]
        with (self._folder / f"{queues}-{len(self._running)}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--concurrency", str(concurrency)],
                cwd=PROJECT_ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL, with its children."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop_all(self) -> None:
        """Kill what still runs."""
        for process in self._running:
            if process.poll() is None:
                self.kill(process)


def note_worker(client: "redis.Redis", name: str, *queues: str, concurrency: int = 1) -> None:
    """A worker that does nothing and whose heartbeat does not end."""
    record = WorkerRecord(
        name=name, queues=list(queues), pid=1, started_at=time.time(), concurrency=concurrency
    )
    client.sadd("finstill:workers", name)
    client.set(f"finstill:worker:{name}", record.model_dump_json())


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 90.0) -> None:
    """Until true; fails the test otherwise."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain until {what}"
        time.sleep(0.05)
