"""Waiting for a Redis that is being restarted, so that paid answers in hand are not lost."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from common.errors import ServiceError

if TYPE_CHECKING:
    import redis

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
_LONGEST_PAUSE = 2.0
T = TypeVar("T")
_here = threading.local()


class RedisAway(Exception):
    """Redis did not answer at the first try and the caller must not wait here."""


@contextmanager
def without_patience() -> Iterator[None]:
    """In this thread `patiently` raises RedisAway instead of waiting."""
    _here.hurried = True
    try:
        yield
    finally:
        _here.hurried = False


def patiently(
    call: Callable[[], T],
    seconds: float = PATIENCE_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """
    The result of `call`, tried again while Redis is away or still loading its data.

    `call` must be safe to repeat. Raises ServiceError after `seconds`, and at once where Redis
    refuses (no memory left, read-only); RedisAway inside `without_patience`.
    """
    import redis

    deadline, pause = clock() + seconds, 0.05
    while True:
        try:
            return call()
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if getattr(_here, "hurried", False):
                raise RedisAway from error
            if clock() > deadline:
                raise ServiceError(
                    f"Redis has not answered for {seconds:.0f} seconds ({error}); start it again: "
                    "finished answers are kept and the job goes on where it stopped."
                ) from error
            logger.warning("Redis does not answer, waiting: %s", error)
        except redis.ResponseError as error:
            raise ServiceError(
                f"Redis refuses to keep answers ({error}); give it more memory or disk and "
                "resume the job."
            ) from error
        sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def without_retries(client: "redis.Redis") -> "redis.Redis":
    """A client for the same server that leaves waiting to `patiently`: the library's own retries
    take ten seconds before anybody hears of a failure."""
    from redis import ConnectionPool, Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    pool = client.connection_pool
    options: dict[str, Any] = {**pool.connection_kwargs, "retry": Retry(NoBackoff(), 0)}
    # answers of a thousand rows come within milliseconds; a silent server is an absent one
    options.setdefault("socket_timeout", 5.0)
    return Redis(connection_pool=ConnectionPool(pool.connection_class, **options))
