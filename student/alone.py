"""One training in a folder at a time, on one host: a lock that ends with whoever holds it."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from common.data.atomic import disk_faults
from common.data.locks import try_lock
from common.errors import JobCancelled, StudentBusy

LOCK = ".lock"  # hidden: stores of runs and exports leave such files out
PATIENCE_SECONDS = 10.0  # one that is killed or told to stop lets go long before
_POLL_SECONDS = 0.05


@contextmanager
def alone_in(folder: Path, cancelled: Callable[[], bool]) -> Iterator[None]:
    """
    Hold `folder` for this process; the kernel lets go of it when the process ends, killed or not.

    Waits a moment for one who is on the way out. Raises StudentBusy when another process still
    trains there then, JobCancelled when `cancelled` says so before, and ServiceError where the
    folder's file system locks nothing.
    """
    with disk_faults(folder / LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("a+", encoding="utf-8")
    with stream:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not try_lock(stream, folder / LOCK):
            if cancelled():
                raise JobCancelled(f"training in '{folder}' was cancelled before it could begin.")
            if time.monotonic() > deadline:
                raise StudentBusy(
                    f"the student in '{folder}' is being trained by another process "
                    f"({_holder(stream)}); wait for it or cancel it."
                )
            time.sleep(_POLL_SECONDS)
        _sign(stream, folder)
        yield


def _sign(stream: IO[str], folder: Path) -> None:
    """Say who holds it, for whoever is refused."""
    with disk_faults(folder / LOCK):
        stream.truncate(0)
        stream.write(f"pid {os.getpid()} on {socket.gethostname()}")
        stream.flush()


def _holder(stream: IO[str]) -> str:
    stream.seek(0)
    return stream.read() or "which has just begun"
