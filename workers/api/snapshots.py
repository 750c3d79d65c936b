"""One look at Redis for many readers at once."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from time import monotonic

from anyio import to_thread

FRESH_SECONDS = 0.2
OLDEST_SECONDS = 1.0
_MOST = 256


class Snapshots:
    """
    Equal questions share a look. An answer older than a fifth of a second is looked up anew in the
    background, and given once more meanwhile, but never when it is older than a second.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[float, bytes]] = OrderedDict()
        self._looking: dict[Hashable, asyncio.Future[bytes]] = {}
        self._epoch = 0

    async def get(self, question: Hashable, look: Callable[[], bytes]) -> bytes:
        """The answer to a question, from `look` in a thread where none is fresh."""
        kept = self._kept.get(question)
        age = monotonic() - kept[0] if kept else OLDEST_SECONDS
        if kept and age < FRESH_SECONDS:
            return kept[1]
        if question not in self._looking:
            self._looking[question] = asyncio.ensure_future(self._look(question, look))
            self._looking[question].add_done_callback(_noticed)
        if kept and age < OLDEST_SECONDS:
            return kept[1]
        return await asyncio.shield(self._looking[question])

    def forget(self) -> None:
        """Something changed: nobody shall be told the old state."""
        self._kept.clear()
        self._looking.clear()
        self._epoch += 1

    async def _look(self, question: Hashable, look: Callable[[], bytes]) -> bytes:
        epoch, begun = self._epoch, monotonic()
        try:
            answer = await to_thread.run_sync(look)
            if epoch == self._epoch:
                self._kept[question] = (begun, answer)
                while len(self._kept) > _MOST:
                    self._kept.popitem(last=False)
            return answer
        finally:
            if epoch == self._epoch:
                self._looking.pop(question, None)


def _noticed(looked: "asyncio.Future[bytes]") -> None:
    """A look that failed with nobody waiting is no news: the next question looks again."""
    if not looked.cancelled():
        looked.exception()
