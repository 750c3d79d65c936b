"""One event loop a thread, kept from call to call: HTTP connections belong to their loop."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
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
