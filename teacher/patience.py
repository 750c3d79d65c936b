"""Waiting for a Redis that is being restarted, so that paid answers in hand are not lost."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from common.errors import ServiceError

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
_LONGEST_PAUSE = 2.0
T = TypeVar("T")


def patiently(
    call: Callable[[], T],
    seconds: float = PATIENCE_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """
    The result of `call`, tried again while Redis is away or still loading its data.

    `call` must be safe to repeat. Raises ServiceError after `seconds`, and at once where Redis
    refuses (no memory left, read-only).
    """
    import redis

    deadline, pause = clock() + seconds, 0.05
    while True:
        try:
            return call()
        except (redis.ConnectionError, redis.TimeoutError) as error:
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
