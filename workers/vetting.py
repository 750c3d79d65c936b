"""
Messages that are none of ours are refused before they can harm a worker, and the refusal is logged.

Celery's own worker ends on some of them: a body of raw bytes under a known task's name, or an entry
in the queue that is not JSON at all, is an unrecoverable error to it, and comes back after the
restart.
"""

import logging
import re
from collections.abc import Callable
from queue import Empty
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.strategy import default
from kombu.transport import redis

from common.config.comparison import RUN_ID

logger = logging.getLogger(__name__)

STAGE = re.compile(r"[a-z]{1,16}(:[a-z0-9][a-z0-9_-]{0,31})?")
MOST_CHUNKS = 10_000_000


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Celery's way of taking a message, behind a look at what it says."""
    take = default(task, app, consumer, **options)

    def vet(message: Any, body: Any, *arguments: Any, **rest: Any) -> Any:
        check(task.name, message)
        return take(message, body, *arguments, **rest)

    return vet


def check(task: str, message: Any) -> None:
    """Raises InvalidTaskError, which drops the message and logs it, unless it is one of ours."""
    if message.content_type != "application/json":
        raise InvalidTaskError(f"content type {str(message.content_type)[:60]!r} is not JSON")
    try:
        arguments, named, _ = message.decode()
        run_id, second = arguments
    except Exception as error:
        raise InvalidTaskError(f"{task}: the payload is not [[run, what], {{}}, …]") from error
    if named or not isinstance(run_id, str) or not re.fullmatch(RUN_ID, run_id):
        raise InvalidTaskError(f"{task}: {str(run_id)[:80]!r} is the id of no run")
    if task.endswith("run_stage"):
        fine = isinstance(second, str) and STAGE.fullmatch(second) is not None
    else:
        fine = type(second) is int and 0 <= second < MOST_CHUNKS
    if not fine:
        raise InvalidTaskError(f"{task}: {str(second)[:80]!r} is no stage or chunk")


class Channel(redis.Channel):
    """Passes over what is not even a message."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.error("an entry of a queue is no message and is dropped: %r", error)
            raise Empty from error


class Transport(redis.Transport):
    """The Redis transport with that channel."""

    Channel = Channel
