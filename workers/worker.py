"""A worker process: Celery's worker with our queues, a heartbeat others can see, quiet logs."""

import logging
import threading
from collections.abc import Sequence

from celery.signals import worker_ready, worker_shutdown

from workers.celery_app import app, settings
from workers.registry import announce
from workers.services import connect


def run_worker(queues: Sequence[str], concurrency: int, log_level: str) -> None:
    """
    Listen on `queues` until SIGTERM; the task at hand is finished first.

    Raises ServiceError when Redis does not answer.
    """
    client = connect(settings.redis_url or "")
    stop = threading.Event()

    def ready(**_: object) -> None:
        announce(client, list(queues), stop, settings.parent)

    def leave(**_: object) -> None:
        stop.set()

    worker_ready.connect(ready, weak=False)
    worker_shutdown.connect(leave, weak=False)
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
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
