"""One request on its way to the service: prepared ahead, let through gate and wallet, settled."""

import asyncio

from teacher.base import Question, Reply
from teacher.budget import Wallet
from teacher.gate import Gate

# A burst of replies frees many slots at once: so many requests stand ready to be sent.
AHEAD = 16


class Anteroom:
    """
    Where requests are built, one at a time and `AHEAD` at most, before they have a slot.

    One at a time, so that replies and news of the pace are heard in between.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(AHEAD)
        self._workbench = asyncio.Lock()

    async def enter(self) -> None:
        """Wait for a place and for the workbench."""
        await self._places.acquire()
        try:
            await self._workbench.acquire()
        except BaseException:
            self._places.release()
            raise

    def next(self) -> None:
        """A request is built."""
        self._workbench.release()

    def leave(self) -> None:
        """A request has left, or never will."""
        self._places.release()


class Passage:
    """
    One try of one question. `await prepare()`, then the teacher awaits `go` right before it
    sends, then exactly one of `finished`, `throttled`, `failed`.

    What building a request costs is paid while it waits for its slot, not out of the slot's time:
    an SDK that needs 1 ms for it leaves a slot empty for 1 ms a request otherwise.
    """

    def __init__(
        self, gate: Gate, wallet: Wallet, anteroom: Anteroom, question: Question, limit: float
    ):
        self._gate = gate
        self._wallet = wallet
        self._anteroom = anteroom
        self._question = question
        self._limit = limit
        self._began = 0.0
        self._ready = self._let_in = self._paid = False
        self.clock = asyncio.timeout(None)

    async def prepare(self) -> None:
        """Wait until it is worth building the request."""
        try:
            await self._anteroom.enter()
        except BaseException:
            self._gate.expect(-1)
            raise

    async def go(self) -> None:
        """
        Slot and money; the request's time runs from here. A second call does nothing.

        Raises what closed the gate or emptied the wallet: the teacher lets it through.
        """
        if self._let_in:
            return
        self._prepared()
        await self._gate.enter(self._question)
        self._leave_anteroom()
        await self._wallet.take(self._question.most_usd)
        self._paid = True
        self._began = asyncio.get_running_loop().time()
        self.clock.reschedule(self._began + self._limit)

    def finished(self, reply: Reply) -> None:
        """The reply is here; what was reserved and not used goes back."""
        seconds = asyncio.get_running_loop().time() - self._began
        used = reply.usage
        tokens = (used.input_tokens + used.cache_write_tokens, used.output_tokens)
        self._wallet.put_back(self._question.most_usd, used.usd)
        self._gate.finished(self._question, seconds, tokens)

    def throttled(self, retry_after: float | None) -> None:
        """The service wants us slower."""
        self._wallet.put_back(self._question.most_usd, 0.0)
        self._gate.throttled(self._question, retry_after)

    def failed(self) -> None:
        """No reply; perhaps nothing was sent at all."""
        if self._paid:
            self._wallet.put_back(self._question.most_usd, 0.0)
        if self._let_in:
            self._gate.failed(self._question)
        else:
            self._leave_anteroom()

    def _prepared(self) -> None:
        if not self._ready:
            self._ready = True
            self._anteroom.next()

    def _leave_anteroom(self) -> None:
        self._prepared()
        self._let_in = True
        self._gate.expect(-1)
        self._anteroom.leave()
