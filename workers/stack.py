"""
The embedded stack: a private Redis and worker processes for those who run none themselves.

`python -m workers.stack` is the process that owns them. It restarts a worker that dies, and ends by
itself when no job has been active for a while, so that nothing is left behind.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from common.errors import ServiceError
from workers.children import Child, stop_all
from workers.embedded_redis import EmbeddedRedis
from workers.jobs import Jobs
from workers.ownership import address_file, is_owned, only_one, write_address
from workers.registry import living_workers
from workers.services import (
    Settings,
    connect,
    settings_from_environment,
    thread_environment,
)

logger = logging.getLogger(__name__)

WORKERS: dict[str, list[str]] = {"label": ["label"], "train": ["train", "evaluate"]}
# With a chunk each, one asks while another reads its rows or writes its answers.
PROCESSES = {"label": 4, "train": 1}
LINGER_SECONDS = 30.0
_NICENESS = 10
_ROOT = Path(__file__).resolve().parents[1]


class Stack:
    """
    Redis and the workers of one state folder.

    `also` are further commands to run beside the workers, by name. With `keep` the stack is
    somebody's on purpose (`finstill up`): `stop_stack` leaves it alone.
    """

    def __init__(
        self, settings: Settings, also: Mapping[str, list[str]] | None = None, keep: bool = False
    ):
        self.redis = EmbeddedRedis(settings.state / "redis")
        self.settings = replace(settings, redis_url=self.redis.url)
        self._commands = {
            **{name: _command(name, queues) for name, queues in WORKERS.items()},
            **(also or {}),
        }
        self._keep = keep
        self._children: list[Child] = []
        self._stopping = False

    def start(self) -> None:
        """Start Redis, then one worker per entry of WORKERS."""
        self.redis.start()
        for name in self._commands:
            self._children.append(Child(name, partial(self._spawn, name)))
        write_address(self.settings, self.redis.url, self._keep)

    def watch(self, linger_seconds: float) -> None:
        """Restart what dies; return when idle for `linger_seconds` or told to stop."""
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        signal.signal(signal.SIGINT, self._ask_to_stop)
        jobs = Jobs(connect(self.redis.url))
        idle_since = time.monotonic()
        while not self._stopping:
            time.sleep(0.5)
            self.revive()
            if _busy(jobs):
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > linger_seconds:
                logger.info("no job for %.0f s", linger_seconds)
                return

    def stop(self, timeout_seconds: float = 20.0) -> None:
        """
        Let each worker finish or hand back its task, then stop Redis.

        From the first moment nobody counts on it any more: a new stack waits for the end of this.
        """
        address_file(self.settings).unlink(missing_ok=True)
        stop_all(self._children, timeout_seconds)
        self.redis.stop()

    def _ask_to_stop(self, *_: object) -> None:
        self._stopping = True

    def revive(self) -> None:
        """
        Start again what ended.

        Never raises and never waits long: nobody looks after the one who looks after all.
        """
        if not self.redis.answers():
            logger.warning("Redis does not answer and is started again")
            try:
                self.redis.start()
            except ServiceError as error:
                logger.error("%s", error)
                return
        for child in self._children:
            child.look_after()

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        log = (self.settings.state / f"worker-{name}.log").open("ab")
        command = [sys.executable, "-m", "workers", *self._commands[name]]
        environment = child_environment(self.settings)
        process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        if self._keep and name in WORKERS:  # whoever looks at a page is served before a training
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
        return process


def _busy(jobs: Jobs) -> bool:
    """Whether a job has not ended; a Redis that was killed just now may know of some."""
    import redis

    try:
        return any(not job.ended for job in jobs.all())
    except redis.RedisError:
        return True


def _command(name: str, queues: list[str]) -> list[str]:
    return ["worker", "--queues", ",".join(queues), "--concurrency", str(PROCESSES[name])]


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of a worker of this stack."""
    return {
        **os.environ,
        "REDIS_URL": settings.redis_url or "",
        "FINSTILL_RUNS": str(settings.runs),
        "FINSTILL_STATE": str(settings.state),
        "FINSTILL_THREADS": str(settings.threads),
        **thread_environment(settings.threads),
        "FINSTILL_PARENT": str(os.getpid()),
        "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
    }


def ensure_stack(settings: Settings, timeout_seconds: float = 60.0) -> str:
    """
    The address of this state folder's running stack, started if there is none.

    Raises ServiceError when it does not come up, naming its log.
    """
    if ready := _ready(settings):
        return ready
    settings.state.mkdir(parents=True, exist_ok=True)
    log_file = settings.state / "stack.log"
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.stack"],
            cwd=_ROOT,
            env={**child_environment(settings), "REDIS_URL": ""},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    threading.Thread(target=process.wait, daemon=True).start()  # it may end before us
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if ready := _ready(settings):
            return ready
        if process.poll() not in (None, 0):
            break
        time.sleep(0.1)
    raise ServiceError(f"the embedded stack did not start; its log is {log_file}.")


def _ready(settings: Settings) -> str | None:
    """Heartbeats alone prove nothing: those of killed workers are fresh for seconds."""
    url = running_stack(settings)
    return url if url and is_owned(settings) and _all_listen(url) else None


def running_stack(settings: Settings) -> str | None:
    """The Redis address of a stack that is up, or None."""
    try:
        url = str(json.loads(address_file(settings).read_text())["redis_url"])
        connect(url).close()
    except (OSError, ValueError, KeyError, ServiceError):
        return None
    return url


def stop_stack(settings: Settings, timeout_seconds: float = 30.0) -> None:
    """
    Stop this state folder's stack and wait until it is gone; not one that was told to stay.

    One without an address is on its way out already, and is waited for as well.
    """
    if not is_owned(settings):
        return  # the process id that a killed one has left may be anybody's by now
    deadline = time.monotonic() + timeout_seconds
    file = address_file(settings)
    try:
        address = json.loads(file.read_text())
        if address.get("keep"):
            return
        os.kill(int(address["pid"]), signal.SIGTERM)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError):
        return
    while file.exists() and is_owned(settings) and time.monotonic() < deadline:
        time.sleep(0.05)
    # an address that comes back is that of another stack, which nobody has asked to stop
    while not file.exists() and is_owned(settings) and time.monotonic() < deadline:
        time.sleep(0.05)


def _all_listen(url: str) -> bool:
    client = connect(url)
    heard = {queue for worker in living_workers(client) for queue in worker.queues}
    client.close()
    return heard >= {queue for queues in WORKERS.values() for queue in queues}


def main() -> None:
    """Own the stack of this state folder until it is idle."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = settings_from_environment()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # an earlier stack may be on its way out
        with only_one(settings) as alone:
            if alone:
                _own(Stack(settings))
                return
        if running_stack(settings):
            return
        time.sleep(0.1)


def _own(stack: Stack) -> None:
    try:
        stack.start()
        stack.watch(LINGER_SECONDS)
    finally:
        stack.stop()


if __name__ == "__main__":
    main()
