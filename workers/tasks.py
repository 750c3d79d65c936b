"""What the queue can ask of a worker: two tasks that carry a run id, a stage and a number."""

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.exceptions import Reject
from celery.utils.log import get_task_logger
from kombu.exceptions import OperationalError

from common.errors import FinstillError
from workers.celery_app import app, settings
from workers.desk import Desk
from workers.execution import execute
from workers.graph import Stage
from workers.orphans import Parent
from workers.services import connect

if TYPE_CHECKING:
    from kombu import Connection

logger = get_task_logger(__name__)

VETTED = "workers.vetting:strategy"
STANDBY_SECONDS = 2.0
REDIS_PAUSE_SECONDS = 1.0


@lru_cache(maxsize=1)
def desk() -> Desk:
    """This process's connection, opened on first use (after the fork)."""
    return Desk(settings=settings, redis=connect(settings.redis_url or ""), send=send)


def send(
    stage: Stage,
    run_id: str,
    chunk: int | None,
    countdown: float = 0.0,
    *,
    connection: "Connection | None" = None,
) -> None:
    """
    Put one task on its stage's queue; a worker uses the application's own connection.

    Raises redis.ConnectionError when the broker is away or goes away in the middle.
    """
    import redis

    task, what = (run_stage, stage.name) if chunk is None else (label_chunk, chunk)
    options: dict[str, Any] = {"connection": connection} if connection else {}
    try:
        task.apply_async((run_id, what), queue=stage.queue, countdown=countdown, **options)
    except (OperationalError, AttributeError) as error:
        # kombu trips over its own closed channel where the broker ends within a message
        raise redis.ConnectionError(f"the broker does not answer: {error}") from error


@app.task(name="finstill.run_stage", bind=True, Strategy=VETTED)
def run_stage(self: "Task[Any, Any]", run_id: str, stage: str) -> None:
    """Do one stage of a run."""
    _deliver(self, run_id, stage, None)


@app.task(name="finstill.label_chunk", bind=True, Strategy=VETTED)
def label_chunk(self: "Task[Any, Any]", run_id: str, chunk: int) -> None:
    """Ask the teachers about one chunk of a run's rows."""
    _deliver(self, run_id, "label", chunk)


def _deliver(task: "Task[Any, Any]", run_id: str, stage: str, chunk: int | None) -> None:
    """
    Do it, or stand by while another worker does: if that one dies, this copy takes over.

    While Redis is away nothing can be recorded, so the task waits for it and is then done again;
    what it finished before is kept. A raised error would be acknowledged, and the task be lost. A
    worker that is left alone waits for no Redis: the next one that starts still has the task.
    """
    import redis

    parent = Parent()
    while True:
        try:
            taken = execute(desk(), run_id, stage, chunk)
            break
        except (redis.ConnectionError, redis.TimeoutError) as error:
            logger.warning("%s of %s waits for Redis: %s", stage, run_id, error)
            if parent.gone():
                raise Reject(str(error), requeue=True) from error
            time.sleep(REDIS_PAUSE_SECONDS)
        except (FinstillError, KeyError) as error:
            logger.error("task %s(%s, %s) is refused: %s", task.name, run_id, stage, error)
            return
    if not taken:
        where = task.request.delivery_info or {}
        arguments = tuple(task.request.args or ())
        queue = str(where.get("routing_key") or "label")
        task.apply_async(arguments, queue=queue, countdown=STANDBY_SECONDS)
