"""One event loop a thread, kept from call to call: HTTP connections belong to their loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
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
    """Call something, in a thread where it `blocks` on a network, so that the loop goes on."""
    if not blocks:
        return call(*args, **kwargs)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, partial(call, *args, **kwargs))


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
