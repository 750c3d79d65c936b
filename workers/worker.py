"""A worker process: Celery's worker with our queues, a heartbeat others can see, quiet logs."""

import importlib
import logging
import threading
from collections.abc import Sequence

from celery.signals import worker_ready, worker_shutdown

from workers.celery_app import app, settings
from workers.logs import log_as
from workers.registry import announce, computes, computing_processes
from workers.services import compute_with, connect

_BACKENDS = ("workers.stages.labels", "teacher.backends.claude", "teacher.backends.vllm")
# a line a task received, a line a request: at the service's limit that is much of the work
_CHATTY = ("celery.worker.strategy", "httpx", "httpx2", "httpcore", "httpcore2", "anthropic")


def run_worker(
    queues: Sequence[str], concurrency: int, log_level: str, log_format: str = "text"
) -> None:
    """
    Listen on `queues` until SIGTERM; the task at hand is finished first.

    Raises ServiceError when Redis does not answer.
    """
    client = connect(settings.redis_url or "")
    if "label" in queues:
        _import_before_the_fork()
    if settings.divides_cores and computes(queues):  # before a task's process imports torch
        compute_with(max(1, settings.threads // (concurrency + computing_processes(client))))
    stop = threading.Event()

    def ready(**_: object) -> None:
        announce(client, list(queues), stop, settings.parent, concurrency)

    def leave(**_: object) -> None:
        stop.set()

    worker_ready.connect(ready, weak=False)
    worker_shutdown.connect(leave, weak=False)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    log_as(log_format)
    app.worker_main(
        [
            "worker",
            f"--queues={','.join(queues)}",
            f"--concurrency={concurrency}",
            f"--loglevel={log_level}",
            "--hostname="
            + f"{'-'.join(queues)}@%h-%i".replace("%i", str(threading.get_native_id())),
            "--without-gossip",
            "--without-mingle",
        ]
    )


def _import_before_the_fork() -> None:
    """
    The backends once for all processes: a second each, and shared memory instead of copies.

    Otherwise a process's first chunk begins seconds after the job, while the others work.
    """
    for module in _BACKENDS:
        importlib.import_module(module)
