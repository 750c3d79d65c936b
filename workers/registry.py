"""
Which workers listen on which queue: a heartbeat key per worker, seen by everyone.

Their names stand in a set: to look for the keys themselves would go through all of Redis, where
each answer of a teacher is a key, and a training that waits for its device asks every two seconds.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from common.errors import ServiceError
from common.records import Record
from workers.orphans import note_orphaned

if TYPE_CHECKING:
    import redis

_BEAT_SECONDS = 2.0
_PREFIX = "finstill:worker:"
_NAMES = "finstill:workers"
_HEARD = "finstill:heard:"
_LIVING = """
local found = {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local record = redis.call('GET', ARGV[1] .. name)
  if record then found[#found + 1] = record else redis.call('SREM', KEYS[1], name) end
end
return found
"""
_COMPUTING = {"train", "evaluate"}
LATELY_SECONDS = 60.0  # a worker that was killed or restarted is back long before


class WorkerRecord(Record):
    """A worker that is alive, with so many processes (`concurrency`) for tasks."""

    name: str
    queues: list[str]
    pid: int
    started_at: float
    concurrency: int = 1


def announce(
    client: "redis.Redis",
    queues: list[str],
    stop: threading.Event,
    parent: int | None = None,
    concurrency: int = 1,
) -> threading.Thread:
    """
    Keep this worker's record alive until `stop` is set.

    With `parent`, the worker also ends when that process is gone: a stack that was killed must not
    leave workers behind that fight its successor's for the cores.
    """
    name = f"{socket.gethostname()}:{os.getpid()}"
    record = WorkerRecord(
        name=name, queues=queues, pid=os.getpid(), started_at=time.time(), concurrency=concurrency
    )
    thread = threading.Thread(target=_beat, args=(client, record, stop, parent), daemon=True)
    thread.start()
    return thread


def _beat(
    client: "redis.Redis", record: WorkerRecord, stop: threading.Event, parent: int | None
) -> None:
    import redis

    while True:
        if parent and os.getppid() != parent:
            note_orphaned()
            os.kill(record.pid, signal.SIGTERM)
        try:
            _tell(client, record)
            if stop.wait(_BEAT_SECONDS):
                client.delete(_PREFIX + record.name)
                return
        except redis.RedisError:
            if stop.wait(_BEAT_SECONDS):
                return


def _tell(client: "redis.Redis", record: WorkerRecord) -> None:
    with client.pipeline(transaction=False) as pipe:
        pipe.set(_PREFIX + record.name, record.model_dump_json(), px=int(_BEAT_SECONDS * 3000))
        pipe.sadd(_NAMES, record.name)
        for queue in record.queues:
            pipe.set(_HEARD + queue, record.name, px=int(LATELY_SECONDS * 1000))
        pipe.execute()


def living_workers(client: "redis.Redis") -> list[WorkerRecord]:
    """Every worker whose heartbeat is fresh; the names of others are forgotten."""
    values = cast("list[bytes]", client.eval(_LIVING, 1, _NAMES, _PREFIX))
    found = [WorkerRecord.model_validate_json(value) for value in values]
    return sorted(found, key=lambda record: record.name)


def computes(queues: Iterable[str]) -> bool:
    """Whether a worker of these queues trains or evaluates, which takes all cores it gets."""
    return not _COMPUTING.isdisjoint(queues)


def computing_processes(client: "redis.Redis") -> int:
    """How many processes of this host's workers may train or evaluate at the same time."""
    return sum(
        worker.concurrency
        for worker in living_workers(client)
        if computes(worker.queues) and worker.name.rpartition(":")[0] == socket.gethostname()
    )


def require_workers(client: "redis.Redis", queues: set[str], or_lately: bool = False) -> None:
    """
    Raises ServiceError when a queue has nobody listening.

    With `or_lately` one who listened within the last LATELY_SECONDS is enough: a worker restarts
    within seconds, and what is queued meanwhile waits for it.
    """
    heard = {queue for worker in living_workers(client) for queue in worker.queues}
    if or_lately:
        heard |= {queue for queue in queues - heard if client.exists(_HEARD + queue)}
    missing = sorted(queues - heard)
    if missing:
        names = ",".join(missing)
        raise ServiceError(
            f"no worker listens on {' or '.join(missing)}: start one with "
            f"`finstill worker --queues {names}`, or run with --local."
        )
