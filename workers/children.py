"""Processes that are to be there: started, started again when they end, and stopped together."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

QUICK_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 5.0

Spawn = Callable[[], "subprocess.Popen[bytes]"]


class Child:
    """
    One process with a session of its own.

    One that ended soon after its start waits a little longer each time before it is started again.
    """

    def __init__(self, name: str, spawn: Spawn):
        self.name, self._spawn = name, spawn
        self.process = spawn()
        self._started_at = time.monotonic()
        self._quick_ends = 0
        self._due: float | None = None

    def look_after(self) -> None:
        """Start it again when it ended and its pause is over. Does not wait."""
        now = time.monotonic()
        if self._due is None and self.process.poll() is not None:
            logger.warning("worker %s ended with %s", self.name, self.process.returncode)
            quick = now - self._started_at < QUICK_SECONDS
            self._quick_ends = self._quick_ends + 1 if quick else 0
            self._due = now + min(LONGEST_PAUSE_SECONDS, 0.5 * self._quick_ends)
        if self._due is not None and now >= self._due:
            self.process, self._started_at, self._due = self._spawn(), now, None


def stop_all(children: Sequence[Child], timeout_seconds: float) -> None:
    """SIGTERM to each; after the time SIGKILL, to its children as well."""
    for child in children:
        _signal_group(child.process, signal.SIGTERM)
    deadline = time.monotonic() + timeout_seconds
    for child in children:
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal_group(child.process, signal.SIGKILL)
            child.process.wait()


def _signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Celery's SIGTERM is for the parent alone; a kill is for its children too."""
    try:
        if number is signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    except ProcessLookupError:
        pass
