"""Files that are whole or not there."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from common.errors import DiskFull, InputError

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """
    A binary stream that becomes `path` when the block ends without an exception.

    Until then the bytes lie beside it under a hidden name; a killed process leaves that file
    and never half of `path`. Raises DiskFull, and InputError where nothing may be written.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex[:12]}.partial")
    try:
        with disk_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
            _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turns the errors of a full or forbidden disk into a sentence about `path`."""
    try:
        yield
    except PermissionError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}; choose another folder."
        ) from error
    except OSError as error:
        if not tells_full_disk(error):
            raise
        raise DiskFull(
            f"{path} could not be written, the disk is full ({error.strerror}); "
            "free some space and start again: what was finished is kept."
        ) from error


def tells_full_disk(error: Exception) -> bool:
    """Whether a write failed for want of room, by its number or, without one, in its words."""
    # safetensors, shutil and CTranslate2 (a bare Exception) tell it in words alone
    said = str(error)
    words = os.strerror(errno.ENOSPC) in said or "os error 28" in said
    return getattr(error, "errno", None) in _FULL or words


def _sync_folder(folder: Path) -> None:
    """Makes the new name itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
