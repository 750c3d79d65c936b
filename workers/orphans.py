"""
Whether the process that looks after this worker is gone; a worker's task processes ask it too.

A worker notices at its heartbeat (workers/registry.py) and ends when its tasks have; a page of
memory shared with the processes it has forked tells a training among those not to run to its end.
"""

import mmap
import os

_page = mmap.mmap(-1, 1)


def note_orphaned() -> None:
    """Tell this process and those forked from it."""
    _page[0] = 1


class Parent:
    """The process that started this one, as of now."""

    def __init__(self) -> None:
        self._pid = os.getppid()

    def gone(self) -> bool:
        """Whether it has ended, or is on its way out because its own parent has."""
        return _page[0] == 1 or os.getppid() != self._pid
