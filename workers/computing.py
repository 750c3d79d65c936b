"""
What a task computes with: its threads, and for a training the device it has for itself.

A GPU trains one student at a time, whoever started the worker: its memory is not shared. On CPUs
the trainings of an installation have together no more threads than the host has cores, so that as
many run at once as have a share each: two that both take every core are tens of times slower.
The locks are flock's: the kernel frees them with the process that held them, however it ended.
"""

import gc
import hashlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from common.data.locks import try_lock
from common.errors import ServiceError
from workers.registry import computing_processes
from workers.services import Settings, usable_cores

if TYPE_CHECKING:
    import redis

_GATE_SECONDS, _POLL_SECONDS = 2.0, 0.01  # to take a lock or all lasts milliseconds
_CURE = "set TMPDIR to a folder on a local disk that they can write to"


def threads_of(client: "redis.Redis", settings: Settings, run_id: str, stage: str) -> int:
    """
    FINSTILL_THREADS, else the cores of this host divided among its workers' processes.

    A training goes on with as many as it began with (`keep_threads`), on whatever host: other
    numbers of threads round otherwise, and it could not end bit-identical.
    """
    if not settings.divides_cores:
        return settings.threads
    began_with = cast("bytes | None", client.hget(_threads_key(run_id), stage))
    share = settings.threads // max(1, computing_processes(client))
    return int(began_with or max(1, share))


def keep_threads(client: "redis.Redis", run_id: str, stage: str, threads: int) -> None:
    """
    Of a training that has its device and begins.

    While it waits its share may change: kept from the first look, the cores of one that came when
    a single worker was up were never all free at once.
    """
    client.hsetnx(_threads_key(run_id), stage, threads)


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
        try:
            yield None if free else f"for the device: {taken} on {socket.gethostname()}"
        finally:
            if free:
                _give_memory_back()


def _give_memory_back() -> None:
    """What torch keeps of a GPU for its next tensors, whoever has the GPU by then."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def core_names(state: Path, cores: int) -> list[str]:
    """A name for each core, the same for all workers of one state folder."""
    installation = hashlib.sha256(str(state).encode()).hexdigest()[:16]
    return [f"{installation}-core-{number}" for number in range(cores)]


@contextmanager
def held(names: Sequence[str], needed: int) -> Iterator[bool]:
    """
    Whether `needed` of the names could be locked; all of them are free again afterwards.

    One at a time locks them: two that began together would each have some, and neither enough.
    """
    with ExitStack() as stack:
        with _locked("gate", _GATE_SECONDS) as passed:
            free = passed and _enough(stack, names, needed)
            if not free:
                stack.close()
        yield free


def _enough(stack: ExitStack, names: Sequence[str], needed: int) -> bool:
    count = 0
    for name in names:
        if count < needed and stack.enter_context(_locked(name)):
            count += 1
    return count >= needed


@contextmanager
def _locked(name: str, patience_seconds: float = 0.0) -> Iterator[bool]:
    path = Path(tempfile.gettempdir()) / f"finstill-{name}.lock"
    descriptor = _open(path)
    try:
        deadline = time.monotonic() + patience_seconds
        while not (free := try_lock(descriptor, path, cure=_CURE)) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
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
            f"may make and read: {_CURE}."
        ) from error
