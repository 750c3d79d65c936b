"""
What a task computes with: its threads, and for a training the device it has for itself.

A GPU trains one student at a time, whoever started the worker: its memory is not shared. On CPUs
the trainings of an installation have together no more threads than the host has cores, so that as
many run at once as have a share each: two that both take every core are tens of times slower.
The locks are flock's: the kernel frees them with the process that held them, however it ended.
"""

import fcntl
import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from common.errors import ServiceError
from workers.registry import computing_processes
from workers.services import Settings, usable_cores

if TYPE_CHECKING:
    import redis


def threads_of(client: "redis.Redis", settings: Settings, run_id: str, stage: str) -> int:
    """
    FINSTILL_THREADS, else the cores of this host divided among its workers' processes.

    A training goes on with as many as it began with, on whatever host: other numbers of threads
    round otherwise, and it could not end bit-identical.
    """
    if not settings.divides_cores:
        return settings.threads
    share = max(1, settings.threads // max(1, computing_processes(client)))
    if not stage.startswith("train:"):
        return share
    key = _threads_key(run_id)
    client.hsetnx(key, stage, share)
    return int(cast("bytes | None", client.hget(key, stage)) or share)


def forget_threads(client: "redis.Redis", run_id: str, stage: str) -> None:
    """Of a training that has ended: done again, it begins anew."""
    client.hdel(_threads_key(run_id), stage)


def _threads_key(run_id: str) -> str:
    return f"finstill:job:{run_id}:threads"


@contextmanager
def device_for_training(settings: Settings, devices: int) -> Iterator[str | None]:
    """
    Hold what a training on so many `devices` takes while the context lasts.

    Gives None, or in words why it must wait. Raises ServiceError where no lock can be made.
    """
    from student.devices import visible_gpus

    if gpus := visible_gpus(devices):
        names, needed = [f"gpu-{gpu}" for gpu in gpus], len(gpus)
        taken = "another training has the GPU"
    else:
        cores = usable_cores()
        names, needed = core_names(settings.state, cores), min(settings.threads, cores)
        taken = "other trainings have the cores"
    with held(names, needed) as free:
        yield None if free else f"for the device: {taken} on {socket.gethostname()}"


def core_names(state: Path, cores: int) -> list[str]:
    """A name for each core, the same for all workers of one state folder."""
    installation = hashlib.sha256(str(state).encode()).hexdigest()[:16]
    return [f"{installation}-core-{number}" for number in range(cores)]


@contextmanager
def held(names: Sequence[str], needed: int) -> Iterator[bool]:
    """Whether `needed` of the names could be locked; all of them are free again afterwards."""
    with ExitStack() as stack:
        count = 0
        for name in names:
            if count < needed and stack.enter_context(_locked(name)):
                count += 1
        if count < needed:
            stack.close()
        yield count == needed


@contextmanager
def _locked(name: str) -> Iterator[bool]:
    descriptor = _open(Path(tempfile.gettempdir()) / f"finstill-{name}.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    try:
        yield free
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """To be locked by every user: in a folder that all may write to, others' files are read."""
    try:
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
            os.fchmod(descriptor, 0o644)
            return descriptor
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise ServiceError(
            f"the lock '{path}' cannot be opened ({error.strerror}); expected a file that workers "
            "may make and read: set TMPDIR to a folder they can write to."
        ) from error
