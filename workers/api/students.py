"""
The process that computes: it holds the students and knows of a request nothing but its texts.

A process, not a thread: many small operations of torch and the serving of requests would take the
one interpreter lock from each other, which made both slower by a quarter.
"""

import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Sequence
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.errors import FinstillError, StudentError

if TYPE_CHECKING:
    from student.predict import Predictor


class Said(NamedTuple):
    """What a student says of one text, in a form that needs no torch to be read."""

    label: str
    probabilities: dict[str, float]
    rationale: str | None


class Shelf:
    """Up to `most` students in memory; the least recently used one makes room."""

    def __init__(self, threads: int, most: int):
        self._threads, self._most = threads, most
        self._models: OrderedDict[Path, Predictor] = OrderedDict()
        self._stamps: dict[Path, int] = {}

    @property
    def folders(self) -> list[Path]:
        """Of the students in memory; last used last."""
        return list(self._models)

    def take(self, folder: Path) -> "Predictor":
        """Loaded, loaded again when trained again, or remembered."""
        from student.predict import Predictor

        stamp = max((f.stat().st_mtime_ns for f in folder.iterdir()), default=0)
        if folder not in self._models or self._stamps[folder] != stamp:
            self._models.pop(folder, None)
            while len(self._models) >= self._most:
                self._models.popitem(last=False)
            self._models[folder] = Predictor.load(
                folder, precision="as-trained", threads=self._threads
            )
            self._stamps[folder] = stamp
        self._models.move_to_end(folder)
        return self._models[folder]


_shelves: list[Shelf] = []  # the one of this process


def begin(threads: int, most: int) -> None:
    """First thing in the process: an empty shelf, and no longer life than the server's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server says when it is over
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    _shelves[:] = [Shelf(threads, most)]


def _end_with_the_server() -> None:
    server = parent_process()
    if server is not None:
        server.join()
        os._exit(0)


def answer(folder: Path, texts: Sequence[str], reasons: bool) -> tuple[list[Said], list[Path]]:
    """
    Answers in the order of `texts`, and the folders of the students now in memory.

    Raises FinstillError; any other error as a StudentError, for it has to cross to a process that
    may not know its class.
    """
    (shelf,) = _shelves
    try:
        scored = shelf.take(folder).predict(texts, rationales=reasons)
    except FinstillError:
        raise
    except Exception as error:
        raise StudentError(f"the student failed with {type(error).__name__}: {error}") from None
    return [Said(s.label, s.probabilities, s.rationale) for s in scored], shelf.folders
