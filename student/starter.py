"""A process that must not outlive the one that started it."""

import os
import signal
import threading


def end_with_starter(pipe: int) -> threading.Thread:
    """
    Kill this process as soon as the other end of `pipe`, a file descriptor, is closed.

    The kernel closes it with the starter, however that ended, and no process id has to be trusted.
    A kill, because the starter's work may be taken over at any moment: a last checkpoint would be
    written where the successor already reads and writes.
    """

    def wait() -> None:
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread
