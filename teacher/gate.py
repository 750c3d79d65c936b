"""One worker's share of the common pace: who may send now, reported to the others in batches."""

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from common.config.teacher import Pace
from teacher.base import Question
from teacher.limits import PAUSE_WITHOUT_HINT, advance
from teacher.loops import off_loop
from teacher.pace_state import PACE_KEY, Grant, PaceState, Report
from teacher.patience import patiently

if TYPE_CHECKING:
    import redis

_RESTING_SECONDS = 0.1
_SOONEST_SECONDS = 0.015  # while the limit grows
_IDLE_SECONDS = 0.02  # with rows to ask and no slot at all
_NEXT_SECONDS = 0.04


class PaceStore(Protocol):
    """Where the shared state of one service's pace lies."""

    blocks: bool

    def exchange(self, report: Report) -> Grant:
        """Take in a report and say what its worker may do; one step at a time."""
        ...


class MemoryPaceStore:
    """The pace of one process; safe for use from several threads."""

    blocks = False

    def __init__(self, pace: Pace, clock: Callable[[], float] = time.monotonic):
        self._pace = pace
        self._clock = clock
        self._lock = threading.Lock()
        self.state = PaceState.start(pace)

    def exchange(self, report: Report) -> Grant:
        with self._lock:
            return advance(self.state, report, self._pace, self._clock())


# Compare and set: the policy itself is teacher/limits.py, in one language only. The server's own
# clock is used, so that workers on several machines agree.
_SWAP = """
local now = redis.call('GET', KEYS[1]) or ''
if ARGV[2] ~= '' and now == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return 1
end
local time = redis.call('TIME')
return {now, time[1], time[2]}
"""


class RedisPaceStore:
    """The pace that all workers share; its state is forgotten an hour after its last use."""

    blocks = True

    def __init__(self, client: "redis.Redis", name: str, pace: Pace):
        self._pace = pace
        self._key = PACE_KEY + name
        self._swap = client.register_script(_SWAP)

    def exchange(self, report: Report) -> Grant:
        old, now = self._call("", "")
        while True:
            state = PaceState.load(json.loads(old)) if old else PaceState.start(self._pace)
            grant = advance(state, report, self._pace, now)
            answer = self._call(old, json.dumps(state.dump(), separators=(",", ":")))
            if answer is None:
                return grant
            old, now = answer

    def _call(self, old: str, new: str) -> Any:
        """None when `new` was set, else what stands there now and the server's time."""
        answer: Any = patiently(partial(self._swap, keys=[self._key], args=[old, new, 3_600_000]))
        if answer == 1:
            return None
        return answer[0].decode(), int(answer[1]) + int(answer[2]) / 1e6


@dataclass(slots=True)
class _News:
    """What happened since the last report."""

    finished: int = 0
    seconds: float = 0.0
    throttled: int = 0
    retry_after: float | None = None
    refund: tuple[float, float] = (0.0, 0.0)


class Gate:
    """
    Lets requests through as the shared pace allows. `async with Gate(...) as gate`.

    Inside, `await gate.enter(question)`, then exactly one of `finished`, `failed`, `throttled`.
    Costs no round trip to Redis per request: the worker holds slots and tickets and reports
    when something changed, at most every 15 ms, or 40 ms where the limit stands.
    """

    def __init__(self, store: PaceStore, owner: str):
        self._store = store
        self._owner = owner
        self._clock = time.monotonic
        self._queue: deque[tuple[asyncio.Future[None], Question]] = deque()
        self._expected = 0
        self._in_flight = 0
        self._grant = Grant(0)
        self._told_waiting = False
        self._tickets = 0
        self._ticket_tokens = (0.0, 0.0)
        self._paused_until = 0.0
        self._news = _News()
        self._dirty = asyncio.Event()
        self._fault: BaseException | None = None
        self._ended = asyncio.Event()
        self._reporter: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "Gate":
        self._clock = asyncio.get_running_loop().time
        self._reporter = asyncio.create_task(self._report_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()
        self._ended.set()
        self._dirty.set()
        if self._reporter:
            await self._reporter
        await self._exchange(leaving=True)

    def expect(self, requests: int) -> None:
        """So many more (or, negative, fewer) will want to enter: slots can be asked for already."""
        self._expected += requests
        if self._worth_reporting():
            self._dirty.set()

    async def enter(self, question: Question) -> None:
        """Wait for a slot. Raises what `close` was given once no more may start."""
        if self._fault:
            raise self._fault
        place = asyncio.get_running_loop().create_future()
        self._queue.append((place, question))
        self._let_in()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.failed(question)
            raise

    def finished(self, question: Question, seconds: float, used: tuple[int, int]) -> None:
        """A reply came after `seconds`; `used` are its input and output tokens."""
        self._news.finished += 1
        self._news.seconds += seconds
        self._leave(question, used)

    def failed(self, question: Question) -> None:
        """No reply, for a reason that says nothing about the pace."""
        self._leave(question, (0, 0))

    def throttled(self, question: Question, retry_after: float | None) -> None:
        """The service wants us slower: nothing starts here from now on, elsewhere in a moment."""
        patient = self._grant.patient and retry_after is None
        pause = 0.0 if patient else PAUSE_WITHOUT_HINT if retry_after is None else retry_after
        self._paused_until = max(self._paused_until, self._clock() + pause)
        self._news.throttled += 1
        self._news.retry_after = max(self._news.retry_after or 0.0, pause)
        self._dirty.set()
        self._leave(question, (0, 0))

    def close(self, fault: BaseException) -> None:
        """Let nobody in any more; who waits is told `fault`."""
        self._fault = fault
        while self._queue:
            place, _ = self._queue.popleft()
            if not place.done():
                place.set_exception(fault)

    def _leave(self, question: Question, used: tuple[int, int]) -> None:
        self._in_flight -= 1
        self._give_back(question.input_tokens - used[0], question.max_output_tokens - used[1])
        self._let_in()

    def _give_back(self, input_tokens: float, output_tokens: float) -> None:
        before = self._news.refund
        self._news.refund = (before[0] + input_tokens, before[1] + output_tokens)

    def _let_in(self) -> None:
        limited = self._grant.tickets is not None
        open_ = self._clock() >= self._paused_until
        while open_ and self._queue and self._in_flight < self._grant.slots:
            if limited and self._tickets < 1:
                break
            place, _ = self._queue.popleft()
            if place.done():
                continue
            self._in_flight += 1
            self._tickets -= limited
            place.set_result(None)
        if self._worth_reporting():
            self._dirty.set()

    def _worth_reporting(self) -> bool:
        if not self._queue and self._expected <= 0:
            return self._in_flight < self._grant.slots
        unknown = not self._told_waiting  # nobody knows yet that we want slots
        grant = self._grant
        return unknown or ((grant.growing or grant.hungry) and self._news.finished > 0)

    async def _report_for_ever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                idle = self._told_waiting and not self._grant.slots
                async with asyncio.timeout(_IDLE_SECONDS if idle else _RESTING_SECONDS):
                    await self._dirty.wait()
            if self._ended.is_set():
                return
            self._dirty.clear()
            try:
                await self._exchange()
            except Exception as error:  # whatever it is: who waits must not wait for ever
                self.close(error)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    _SOONEST_SECONDS if self._grant.growing else _NEXT_SECONDS
                ):
                    await self._ended.wait()

    async def _exchange(self, leaving: bool = False) -> None:
        report = self._report(leaving)
        self._grant = await off_loop(self._store.blocks, self._store.exchange, report)
        loop = asyncio.get_running_loop()
        now = self._clock()
        if self._grant.tickets:
            self._tickets += self._grant.tickets
            self._ticket_tokens = report.need
        self._paused_until = max(self._paused_until, now + self._grant.pause)
        if self._paused_until > now and not leaving:
            if self._timer:
                self._timer.cancel()
            self._timer = loop.call_later(self._paused_until - now, self._let_in)
        self._let_in()
        if self._grant.more_soon:
            self._dirty.set()

    def _report(self, leaving: bool) -> Report:
        """Take the news out and put them into a report, with what is needed next."""
        here = [question for place, question in self._queue if not place.done()]
        waiting = max(len(here), self._expected)
        self._told_waiting = waiting > 0
        spare = max(0, self._tickets - waiting)
        self._tickets -= spare
        self._give_back(spare * self._ticket_tokens[0], spare * self._ticket_tokens[1])
        news, self._news = self._news, _News()
        each = max(1, len(here))
        return Report(
            owner=self._owner,
            in_flight=self._in_flight,
            waiting=waiting,
            finished=news.finished,
            seconds=news.seconds,
            throttled=news.throttled,
            retry_after=news.retry_after,
            refund=news.refund,
            unused_tickets=spare,
            wanted_tickets=max(0, waiting - self._tickets) if here else 0,
            need=(
                sum(question.input_tokens for question in here) / each,
                sum(question.max_output_tokens for question in here) / each,
            ),
            leaving=leaving,
        )
