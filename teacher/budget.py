"""Money: reserved before a request and settled after it, correct over many workers."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import JobPaused
from teacher.cache import ALIVE
from teacher.loops import off_loop
from teacher.patience import patiently

if TYPE_CHECKING:
    import redis

_NANO = 1_000_000_000
_REQUESTS_AT_A_TIME = 8
_SPENT_BY_ALL = "finstill:spent"
_WAIT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Money:
    """
    A purse's state in US dollars.

    `reserved`: requests under way. `lost`: reserved by workers that died; perhaps paid, so it
    counts against the budget.
    """

    spent: float
    reserved: float = 0.0
    lost: float = 0.0


@dataclass(frozen=True, slots=True)
class Reserved:
    """What a reservation got, in dollars, and whether others' reservations may still come back."""

    usd: float
    others_open: bool


class Purse(Protocol):
    """The money of one job. `max_usd` None: no limit, but the spending is still counted."""

    max_usd: float | None
    blocks: bool

    def reserve(self, owner: str, least: float, most: float) -> Reserved:
        """Put aside between `least` and `most` dollars, or nothing."""
        ...

    def settle(self, owner: str, spent: float, returned: float) -> None:
        """Of what the owner reserved, so much was spent and so much comes back."""
        ...

    def money(self) -> Money:
        """Where the job stands."""
        ...


class MemoryPurse:
    """The purse of one process; safe for use from several threads."""

    blocks = False

    def __init__(self, max_usd: float | None = None):
        self.max_usd = max_usd
        self._lock = threading.Lock()
        self._spent = 0.0
        self._held: dict[str, float] = {}

    def reserve(self, owner: str, least: float, most: float) -> Reserved:
        with self._lock:
            left = float("inf") if self.max_usd is None else self.max_usd
            left -= self._spent + sum(self._held.values())
            others = any(v > 1e-12 for name, v in self._held.items() if name != owner)
            if least > left + 1e-12:
                return Reserved(0.0, others)
            granted = max(least, min(most, left / 4))
            self._held[owner] = self._held.get(owner, 0.0) + granted
            return Reserved(granted, others)

    def settle(self, owner: str, spent: float, returned: float) -> None:
        with self._lock:
            self._spent += spent
            self._held[owner] = max(0.0, self._held.get(owner, 0.0) - spent - returned)

    def money(self) -> Money:
        return Money(self._spent, sum(self._held.values()))


# Amounts are whole nano-dollars: floats would not add up. `spent`, `lost` and one field a worker
# lie in a hash. What a dead worker held is taken for lost, for its requests may have been paid.
_RESERVE = """
local lost, held, others = 0, 0, 0
local fields = redis.call('HGETALL', KEYS[1])
local sums = {spent = 0, lost = 0}
for i = 1, #fields, 2 do
  local name, value = fields[i], tonumber(fields[i + 1])
  if sums[name] then
    sums[name] = value
  elseif name ~= ARGV[1] and redis.call('EXISTS', ARGV[2] .. name) == 0 then
    redis.call('HDEL', KEYS[1], name)
    redis.call('HINCRBY', KEYS[1], 'lost', value)
    lost = lost + value
  else
    held = held + value
    if name ~= ARGV[1] then others = others + value end
  end
end
local least, most, budget = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local left = budget - sums.spent - sums.lost - lost - held
if least > left then return {0, others} end
local granted = math.max(least, math.min(most, math.floor(left / 4)))
redis.call('HINCRBY', KEYS[1], ARGV[1], granted)
return {granted, others}
"""
_SETTLE = """
local spent, returned = tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('HINCRBY', KEYS[1], 'spent', spent)
redis.call('INCRBY', KEYS[2], spent)
local held = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
local taken = math.min(held, spent + returned)
if held - taken > 0 then redis.call('HINCRBY', KEYS[1], ARGV[1], -taken)
else redis.call('HDEL', KEYS[1], ARGV[1]) end
local lost = tonumber(redis.call('HGET', KEYS[1], 'lost') or '0')
local found = math.min(lost, spent + returned - taken)
if found > 0 then redis.call('HINCRBY', KEYS[1], 'lost', -found) end
"""


def raise_budget(client: "redis.Redis", job_id: str, max_usd: float) -> None:
    """From now on the job's budget is `max_usd` instead of its config's."""
    patiently(partial(client.set, _budget_key(job_id), repr(max_usd)))


def spent_by(client: "redis.Redis", job_ids: Sequence[str]) -> dict[str, float]:
    """
    Dollars that jobs have paid until now, probes and batches included, in one round trip; jobs
    that have paid nothing are left out.
    """
    pipe = client.pipeline(transaction=False)
    for job_id in job_ids:
        pipe.hget(_purse_key(job_id), "spent")
    found = zip(job_ids, pipe.execute() if job_ids else [], strict=True)
    return {job_id: int(nano) / _NANO for job_id, nano in found if nano}


def spent_by_all(client: "redis.Redis") -> float:
    """Dollars that all jobs together have paid since this Redis began to count."""
    nano: Any = client.get(_SPENT_BY_ALL)
    return int(nano or 0) / _NANO


def _budget_key(job_id: str) -> str:
    return f"finstill:budget:{job_id}"


def _purse_key(job_id: str) -> str:
    return f"finstill:purse:{job_id}"


class RedisPurse:
    """
    The purse of one job over all its workers; it outlives them, for the job may be resumed.

    What `raise_budget` said takes the place of `max_usd`.
    """

    blocks = True

    def __init__(self, client: "redis.Redis", job_id: str, max_usd: float | None = None):
        raised: Any = patiently(partial(client.get, _budget_key(job_id)))
        self.max_usd = float(raised) if raised and max_usd is not None else max_usd
        self._client = client
        self._key = _purse_key(job_id)
        self._reserve = client.register_script(_RESERVE)
        self._settle = client.register_script(_SETTLE)

    def reserve(self, owner: str, least: float, most: float) -> Reserved:
        if self.max_usd is None:
            return Reserved(most, False)
        amounts = [_nano(least), _nano(most), _nano(self.max_usd)]
        call = partial(self._reserve, keys=[self._key], args=[owner, ALIVE, *amounts])
        answer: Any = patiently(call)
        return Reserved(answer[0] / _NANO, answer[1] > 0)

    def settle(self, owner: str, spent: float, returned: float) -> None:
        amounts = [_nano(spent), _nano(returned)]
        patiently(partial(self._settle, keys=[self._key, _SPENT_BY_ALL], args=[owner, *amounts]))

    def money(self) -> Money:
        fields: Any = patiently(partial(self._client.hgetall, self._key))
        values = {name.decode(): int(value) / _NANO for name, value in fields.items()}
        spent, lost = values.pop("spent", 0.0), values.pop("lost", 0.0)
        return Money(spent, sum(values.values()), lost)


class Wallet:
    """
    One worker's money in hand: it reserves for several requests at a time.

    `take` before a request, `put_back` after it; `spent` is collected by the journal.
    """

    def __init__(
        self, purse: Purse, owner: str, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ):
        self._purse = purse
        self._owner = owner
        self._sleep = sleep
        self._free = 0.0
        self._open = 0
        self._turn = asyncio.Lock()

    async def take(self, usd: float) -> None:
        """Money for one request. Raises JobPaused when the budget does not reach for another."""
        if self._purse.max_usd is None or usd <= 0:
            return
        async with self._turn:
            while self._free < usd:
                got = await self._reserve(usd)
                if got.usd <= 0 and not got.others_open and not self._open:
                    raise self._paused()
                if got.usd <= 0:
                    await self._sleep(_WAIT_SECONDS)
            self._free -= usd
            self._open += 1

    async def _reserve(self, usd: float) -> Reserved:
        purse, missing = self._purse, usd - self._free
        most = max(missing, _REQUESTS_AT_A_TIME * usd)
        got = await off_loop(purse.blocks, purse.reserve, self._owner, missing, most)
        self._free += got.usd
        if got.usd <= 0 and self._free > 0:  # of no use to us, perhaps to somebody else
            await self.close()
        return got

    def put_back(self, reserved: float, spent: float) -> None:
        """A request is over: it had `reserved` and cost `spent`."""
        if self._purse.max_usd is not None and reserved > 0:
            self._free += reserved - spent
            self._open -= 1

    async def close(self) -> None:
        """Give back what is left."""
        returned, self._free = self._free, 0.0
        if returned > 0:
            purse = self._purse
            await off_loop(purse.blocks, purse.settle, self._owner, 0.0, returned)

    def _paused(self) -> JobPaused:
        return JobPaused(
            f"the budget of ${self._purse.max_usd:.2f} is reached: "
            f"${self._purse.money().spent:.4f} are spent and the next request may cost more than "
            "is left; go on with `finstill jobs resume JOB --max-usd DOLLARS`."
        )


def _nano(usd: float) -> int:
    return round(usd * _NANO)
