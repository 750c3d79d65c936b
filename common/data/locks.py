"""A file that one process at a time may hold; the kernel frees it when that process ends."""

import fcntl
from pathlib import Path
from typing import IO

from common.errors import ServiceError


def try_lock(
    file: IO[str] | int,
    path: Path,
    *,
    shared: bool = False,
    cure: str = "put its folder on a local disk",
) -> bool:
    """
    Whether `file`, which is open at `path`, could be locked without waiting, by flock.

    `shared` locks exclude none but exclusive ones. It is free again when all that share the open
    file have closed it. Raises ServiceError, which ends with the `cure`, where the file system
    locks nothing: some that come over a network.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ServiceError(
            f"'{path}' cannot be locked ({error.strerror}); expected a folder whose file system "
            f"locks files: {cure}."
        ) from error
    return True
