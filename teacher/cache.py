"""Where answers are kept: each is paid once, by whichever job asks first."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from teacher.entries import Entry, decode, encode
from teacher.patience import patiently

if TYPE_CHECKING:
    import redis

HEARTBEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
_BLOCK = 1000
_ANSWER = b"finstill:a:"
_LEASE = b"finstill:l:"
ALIVE = "finstill:alive:"
DAY = 86_400.0  # seconds
T = TypeVar("T")


class Claim(Enum):
    """What became of the wish to ask a question."""

    MINE = "mine"
    HELD = "held"


class AnswerCache(Protocol):
    """
    Answers by question key (64 hexadecimal digits), and leases on keys being asked.

    A lease lasts as long as its owner shows a sign of life (`beat`) every HEARTBEAT_SECONDS, and
    is forgotten `kept` seconds after it was claimed or named in a beat.
    """

    blocks: bool
    """Whether calls wait for a network."""

    def look_up(self, keys: Sequence[str]) -> list[Entry | None]:
        """The answers there are, in the order of the keys."""
        ...

    def claim(self, keys: Sequence[str], owner: str, kept: float = DAY) -> list[Entry | Claim]:
        """In one step for each key: its answer, or a lease for us, or word that another has it."""
        ...

    def store(self, entries: Mapping[str, Entry], owner: str) -> None:
        """Keep answers and give their leases back."""
        ...

    def release(self, keys: Iterable[str], owner: str) -> None:
        """Give leases back without an answer, so that others need not wait."""
        ...

    def beat(
        self, owner: str, seconds: float = HEARTBEAT_SECONDS, leased: Iterable[str] = ()
    ) -> None:
        """
        Sign of life of an owner of leases, good for so many seconds (a batch: a day). The leases
        on the keys `leased` are kept for LEASE_SECONDS more.
        """
        ...

    def packed(self) -> Iterator[tuple[str, bytes]]:
        """Every key with its stored bytes, in no order; for export and verify."""
        ...

    def put_packed(self, entries: Mapping[str, bytes]) -> int:
        """Keep stored bytes as they are unless the key is known; returns how many were new."""
        ...

    def drop(self, keys: Iterable[str]) -> int:
        """Forget answers; returns how many there were."""
        ...


class MemoryCache:
    """A cache that lives as long as its process; safe for use from several threads."""

    blocks = False

    def __init__(self, clock: Callable[[], float] = monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: dict[bytes, bytes] = {}
        self._leases: dict[bytes, str] = {}
        self._seen: dict[str, float] = {}

    def look_up(self, keys: Sequence[str]) -> list[Entry | None]:
        found = [self._answers.get(bytes.fromhex(key)) for key in keys]
        return [decode(packed) if packed else None for packed in found]

    def claim(self, keys: Sequence[str], owner: str, kept: float = DAY) -> list[Entry | Claim]:
        with self._lock:
            self._seen[owner] = self._clock()
            return [self._claim(bytes.fromhex(key), owner) for key in keys]

    def _claim(self, key: bytes, owner: str) -> Entry | Claim:
        if key in self._answers:
            return decode(self._answers[key])
        holder = self._leases.get(key, owner)
        silent = self._clock() - self._seen.get(holder, float("-inf"))
        if holder != owner and silent < HEARTBEAT_SECONDS:
            return Claim.HELD
        self._leases[key] = owner
        return Claim.MINE

    def store(self, entries: Mapping[str, Entry], owner: str) -> None:
        packed = {bytes.fromhex(key): encode(entry) for key, entry in entries.items()}
        with self._lock:
            self._answers.update(packed)
            for key in packed:
                self._leases.pop(key, None)

    def release(self, keys: Iterable[str], owner: str) -> None:
        with self._lock:
            for key in map(bytes.fromhex, keys):
                if self._leases.get(key) == owner:
                    del self._leases[key]

    def beat(
        self, owner: str, seconds: float = HEARTBEAT_SECONDS, leased: Iterable[str] = ()
    ) -> None:
        self._seen[owner] = self._clock() + seconds - HEARTBEAT_SECONDS

    def packed(self) -> Iterator[tuple[str, bytes]]:
        for key, value in list(self._answers.items()):
            yield key.hex(), value

    def put_packed(self, entries: Mapping[str, bytes]) -> int:
        with self._lock:
            before = len(self._answers)
            for key, value in entries.items():
                self._answers.setdefault(bytes.fromhex(key), value)
            return len(self._answers) - before

    def drop(self, keys: Iterable[str]) -> int:
        with self._lock:
            return sum(self._answers.pop(bytes.fromhex(key), None) is not None for key in keys)


# One step, so that no answer can arrive between looking and leasing. Keys are built here from
# their digests: one Redis server, no cluster.
_CLAIM = """
redis.call('SET', ARGV[1] .. ARGV[2], 1, 'PX', ARGV[3])
local found = {}
for i = 7, #ARGV do
  local answer = redis.call('GET', ARGV[4] .. ARGV[i])
  if answer then
    found[#found + 1] = answer
  else
    local lease = ARGV[5] .. ARGV[i]
    local holder = redis.call('GET', lease)
    if holder and holder ~= ARGV[2] and redis.call('EXISTS', ARGV[1] .. holder) == 1 then
      found[#found + 1] = 0
    else
      redis.call('SET', lease, ARGV[2], 'PX', ARGV[6])
      found[#found + 1] = 1
    end
  end
end
return found
"""
_RELEASE = """
for i, lease in ipairs(KEYS) do
  if redis.call('GET', lease) == ARGV[1] then redis.call('DEL', lease) end
end
"""


class RedisCache:
    """
    The cache all workers and jobs share. Needs Redis 6.2; `client` returns bytes.

    Keys are 43 bytes, values see teacher/entries.py; look-ups go in blocks, never row by row.
    """

    blocks = True

    def __init__(self, client: "redis.Redis"):
        self._client = client
        self._claim_script = client.register_script(_CLAIM)
        self._release_script = client.register_script(_RELEASE)

    def look_up(self, keys: Sequence[str]) -> list[Entry | None]:
        found: list[Entry | None] = []
        for block in _blocks(keys):
            names = [_ANSWER + bytes.fromhex(key) for key in block]
            values: list[Any] = patiently(partial(self._client.mget, names))
            found += [decode(value) if value else None for value in values]
        return found

    def claim(self, keys: Sequence[str], owner: str, kept: float = DAY) -> list[Entry | Claim]:
        fixed: list[Any] = [ALIVE, owner, _milli(HEARTBEAT_SECONDS), _ANSWER, _LEASE, _milli(kept)]
        claimed: list[Entry | Claim] = []
        for block in _blocks(keys):
            arguments = fixed + [bytes.fromhex(key) for key in block]
            values = patiently(partial(self._claim_script, args=arguments))
            claimed += [_read_claim(value) for value in values]
        return claimed

    def store(self, entries: Mapping[str, Entry], owner: str) -> None:
        packed = [(bytes.fromhex(key), encode(entry)) for key, entry in entries.items()]
        for block in _blocks(packed):
            patiently(partial(self._store, block))

    def _store(self, block: Sequence[tuple[bytes, bytes]]) -> None:
        pipe = self._client.pipeline(transaction=False)
        for key, value in block:
            pipe.set(_ANSWER + key, value)
            pipe.delete(_LEASE + key)
        pipe.execute()

    def release(self, keys: Iterable[str], owner: str) -> None:
        for block in _blocks([_LEASE + bytes.fromhex(key) for key in keys]):
            patiently(partial(self._release_script, keys=block, args=[owner]))

    def beat(
        self, owner: str, seconds: float = HEARTBEAT_SECONDS, leased: Iterable[str] = ()
    ) -> None:
        pipe = self._client.pipeline(transaction=False)
        pipe.set(ALIVE + owner, 1, px=_milli(seconds))
        for key in leased:
            pipe.pexpire(_LEASE + bytes.fromhex(key), _milli(LEASE_SECONDS))
        pipe.execute()

    def packed(self) -> Iterator[tuple[str, bytes]]:
        names: list[bytes] = []
        for name in self._client.scan_iter(match=_ANSWER + b"*", count=_BLOCK):
            names.append(name)
            if len(names) == _BLOCK:
                yield from self._values(names)
                names = []
        yield from self._values(names)

    def _values(self, names: list[bytes]) -> Iterator[tuple[str, bytes]]:
        values: list[Any] = self._client.mget(names) if names else []
        for name, value in zip(names, values, strict=True):
            if value is not None:
                yield name.removeprefix(_ANSWER).hex(), value

    def put_packed(self, entries: Mapping[str, bytes]) -> int:
        new = 0
        for block in _blocks(list(entries.items())):
            pipe = self._client.pipeline(transaction=False)
            for key, value in block:
                pipe.set(_ANSWER + bytes.fromhex(key), value, nx=True)
            new += sum(bool(done) for done in pipe.execute())
        return new

    def drop(self, keys: Iterable[str]) -> int:
        dropped = 0
        for block in _blocks([_ANSWER + bytes.fromhex(key) for key in keys]):
            dropped += int(self._client.delete(*block))
        return dropped


def _read_claim(value: bytes | int) -> Entry | Claim:
    if isinstance(value, bytes):
        return decode(value)
    return Claim.MINE if value else Claim.HELD


def _milli(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _blocks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _BLOCK):
        yield items[start : start + _BLOCK]
