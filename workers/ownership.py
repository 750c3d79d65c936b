"""Who looks after an embedded stack: a lock in its state folder, as long as its process lives."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from common.data.locks import try_lock
from workers.services import Settings

_TRIES, _PAUSE_SECONDS = 3, 0.01
_CURE = "set FINSTILL_STATE to a folder on a local disk"


@contextmanager
def only_one(settings: Settings) -> Iterator[bool]:
    """
    Whether this process owns the stack for now.

    The address of an earlier owner, who was killed, is removed: nobody is to take the process of
    that number for this one.
    """
    with _lock_file(settings) as stream:
        owns = _owns(stream)
        if owns:
            address_file(settings).unlink(missing_ok=True)
        yield owns


def is_owned(settings: Settings) -> bool:
    """
    Whether a process looks after the stack; its Redis outlives it and tells nothing.

    Those who look share the lock, and never take each other for an owner.
    """
    with _lock_file(settings) as stream:
        return not try_lock(stream, Path(stream.name), shared=True, cure=_CURE)


def address_file(settings: Settings) -> Path:
    """Where a running stack says how to reach it."""
    return settings.state / "stack.json"


def write_address(settings: Settings, url: str, keep: bool = False) -> None:
    """Announce this process as the owner of the stack."""
    address = {"redis_url": url, "pid": os.getpid(), "keep": keep}
    address_file(settings).write_text(json.dumps(address))


def _owns(stream: IO[str]) -> bool:
    for left in reversed(range(_TRIES)):
        if try_lock(stream, Path(stream.name), cure=_CURE):
            return True
        if left:
            time.sleep(_PAUSE_SECONDS)
    return False


def _lock_file(settings: Settings) -> IO[str]:
    settings.state.mkdir(parents=True, exist_ok=True)
    return (settings.state / "stack.lock").open("a+", encoding="utf-8")
