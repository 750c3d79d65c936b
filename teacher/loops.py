"""One event loop a thread, kept from call to call: HTTP connections belong to their loop."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

from teacher.patience import RedisAway, without_patience

T = TypeVar("T")
P = ParamSpec("P")
_NEAR_SECONDS = 0.003
_TRY_AGAIN = 50
_here = threading.local()


def run(work: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine on this thread's loop.

    When a signal (Ctrl-C, a task's time limit) raises in the middle, the work is cancelled and
    may finish its `finally` clauses before the exception goes on.
    """
    loop = _loop()
    task = loop.create_task(work)
    try:
        return loop.run_until_complete(task)
    except BaseException:
        if not task.done():
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        raise


async def off_loop(blocks: bool, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Call something that may wait for Redis (`blocks`) without holding up the loop for long.

    A near Redis answers sooner than a thread wakes up (0.2 ms against 1 ms), so calls are made in
    place as long as they are that quick; a slow or absent Redis is waited for in a thread.
    """
    if not blocks:
        return call(*args, **kwargs)
    speed: _Speed = _here.__dict__.setdefault("speed", _Speed())
    if speed.is_near():
        started = time.perf_counter()
        try:
            with without_patience():
                return call(*args, **kwargs)
        except RedisAway:
            pass
        finally:
            speed.note(time.perf_counter() - started)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, partial(call, *args, **kwargs))


class _Speed:
    """How long calls in place took lately: a running mean in seconds."""

    def __init__(self) -> None:
        self._mean, self._skipped = 0.0, 0

    def is_near(self) -> bool:
        """Whether calling in place is worth it; now and then tried again."""
        self._skipped = 0 if self._mean < _NEAR_SECONDS else (self._skipped + 1) % _TRY_AGAIN
        return self._skipped == 0

    def note(self, seconds: float) -> None:
        """Take in the duration of one call."""
        self._mean += 0.1 * (min(seconds, 0.1) - self._mean)


def use_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Let this thread's calls run on `loop` from now on."""
    close_loop()
    _here.loop = loop


def close_loop() -> None:
    """Close this thread's loop, if it has one."""
    loop: asyncio.AbstractEventLoop | None = getattr(_here, "loop", None)
    if loop and not loop.is_closed():
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    _here.loop = None


def _loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop | None = getattr(_here, "loop", None)
    if loop is None or loop.is_closed():
        loop = _here.loop = asyncio.new_event_loop()
    return loop
