"""
Whether the process that looks after this worker is gone; a worker's task processes ask it too.

A worker notices at its heartbeat (workers/registry.py) and ends when its tasks have; a page of
memory shared with the processes it has forked tells a training among those not to run to its end.
"""

import mmap
import os

_page = mmap.mmap(-1, 1)
_process = os.getpid()
_forked_by: int | None = None


def _note_fork() -> None:
    """In the new process, where `_process` is still the one that forked it, dead or alive."""
    global _process, _forked_by
    _forked_by, _process = _process, os.getpid()


os.register_at_fork(after_in_child=_note_fork)


def note_orphaned() -> None:
    """Tell this process and those forked from it."""
    _page[0] = 1


class Parent:
    """
    The process that started this one: whoever forked it, else its parent as of now.

    A forked one asks late, after it has fetched a run or imported torch; its parent may have died
    by then, and the one it has since been given to lives for ever.
    """

    def __init__(self) -> None:
        self._pid = _forked_by or os.getppid()

    def gone(self) -> bool:
        """Whether it has ended, or is on its way out because its own parent has."""
        return _page[0] == 1 or os.getppid() != self._pid
