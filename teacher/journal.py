"""Paid replies on their way into the cache: many at a time, and never lost on the way."""

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from common.records import Usage
from teacher.budget import Purse
from teacher.cache import AnswerCache
from teacher.entries import Entry
from teacher.loops import off_loop

_GATHER_SECONDS = 0.004


class Count(Protocol):
    """Adds to a job's counters: asked, cached, failed, input_tokens, output_tokens, usd, ..."""

    def __call__(self, **deltas: float) -> None: ...


class Counts:
    """Gathers counts, so that whoever shows them is told a few times a second and not per row."""

    def __init__(self, count: Count):
        self._count = count
        self._lock = threading.Lock()
        self._news: Counter[str] = Counter()

    def add(self, **deltas: float) -> None:
        """Remember for the next `tell`."""
        with self._lock:
            self._news.update(deltas)

    def tell(self) -> None:
        """Pass on what was gathered; may take as long as its listener does."""
        with self._lock:
            news, self._news = self._news, Counter()
        if news:
            self._count(**news)


@dataclass(slots=True)
class _Page:
    key: str
    entry: Entry
    written: "asyncio.Future[None]"


class Journal:
    """
    Stores replies and settles their price before anybody hears of them.

    While one write is under way the next replies gather, so that a busy worker makes one round
    trip for dozens. Writing is a task of its own: cancelling who waits does not cancel it.
    """

    def __init__(self, cache: AnswerCache, purse: Purse, owner: str, count: Count):
        self._cache = cache
        self._purse = purse
        self._owner = owner
        self.counts = Counts(count)
        self._pages: list[_Page] = []
        self._writer: asyncio.Task[None] | None = None

    async def keep(self, key: str, entry: Entry) -> None:
        """Returns when the reply is in the cache and its price in the books."""
        page = _Page(key, entry, asyncio.get_running_loop().create_future())
        self._pages.append(page)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await asyncio.shield(page.written)

    async def drain(self) -> None:
        """Wait until everything is written. Raises what the writing raised."""
        if self._writer:
            await self._writer

    async def _write(self) -> None:
        while self._pages:
            # replies come in bursts: the next requests go out first, and one write takes them all
            await asyncio.sleep(_GATHER_SECONDS)
            pages, self._pages = self._pages, []
            try:
                await off_loop(self._cache.blocks, self._write_pages, pages)
            except Exception as error:
                for page in pages:
                    _fail(page.written, error)
                raise
            for page in pages:
                if not page.written.done():
                    page.written.set_result(None)

    def _write_pages(self, pages: list[_Page]) -> None:
        self._cache.store({page.key: page.entry for page in pages}, self._owner)
        total = sum((page.entry.reply.usage for page in pages), Usage())
        if total.usd:
            self._purse.settle(self._owner, total.usd, 0.0)
        self.counts.add(
            asked=len(pages),
            input_tokens=total.input_tokens,
            output_tokens=total.output_tokens,
            usd=total.usd,
        )


def _fail(future: "asyncio.Future[None]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # looked at: nobody may be waiting any more
