"""What a labelling worker needs besides a teacher: cache, pace, money, counters, a way to stop."""

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from common.config.teacher import LabellingConfig, Pace
from common.errors import ServiceError
from teacher.base import Teacher
from teacher.budget import MemoryPurse, Purse, RedisPurse
from teacher.cache import AnswerCache, MemoryCache, RedisCache
from teacher.gate import MemoryPaceStore, PaceStore, RedisPaceStore
from teacher.journal import Count
from teacher.patience import without_retries

if TYPE_CHECKING:
    import redis


def _count_nothing(**_deltas: float) -> None:
    """Where nobody looks at the counters."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class LabellingServices:
    """
    The surroundings of `label_examples`, shared by all workers or local to this process.

    `paces` gives the shared pace of a service by its name. `count` and `cancelled` are called from
    other threads too. `sleep`, `clock` and `dice` (uniform in [0, 1)) are there for tests.
    """

    cache: AnswerCache
    purse: Purse
    paces: Callable[[str], PaceStore]
    pace: Pace = field(default_factory=Pace)
    count: Count = _count_nothing
    cancelled: Callable[[], bool] = _never
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    dice: Callable[[], float] = random.random
    owner: str = field(default_factory=lambda: uuid.uuid4().hex[:16])

    def pace_of(self, teacher: Teacher) -> PaceStore:
        """The pace of the teacher's service: one for each provider and model."""
        return self.paces(f"{teacher.provider}:{teacher.model}")


def redis_services(
    client: "redis.Redis",
    job_id: str,
    labelling: LabellingConfig,
    pace: Pace,
    count: Count = _count_nothing,
    cancelled: Callable[[], bool] = _never,
) -> LabellingServices:
    """Services that all workers of a job share through one Redis; `client` returns bytes."""
    client = without_retries(client)
    return LabellingServices(
        cache=RedisCache(client),
        purse=RedisPurse(client, job_id, labelling.max_usd),
        paces=lambda name: RedisPaceStore(client, name, pace),
        pace=pace,
        count=count,
        cancelled=cancelled,
    )


def local_services(
    labelling: LabellingConfig | None = None,
    pace: Pace | None = None,
    count: Count = _count_nothing,
    cancelled: Callable[[], bool] = _never,
    cache: AnswerCache | None = None,
) -> LabellingServices:
    """Services of this process alone; nothing outlives it."""
    stores: dict[str, PaceStore] = {}
    chosen = pace or Pace()
    return LabellingServices(
        cache=cache or MemoryCache(),
        purse=MemoryPurse(labelling.max_usd if labelling else None),
        paces=lambda name: stores.setdefault(name, MemoryPaceStore(chosen)),
        pace=chosen,
        count=count,
        cancelled=cancelled,
    )


def check_durability(client: "redis.Redis", accept_volatile: bool = False) -> None:
    """
    Refuse paid work on a Redis that may throw answers away.

    Raises ServiceError when the server evicts keys or writes nothing to disk, unless
    `accept_volatile`.
    """
    if accept_volatile:
        return
    policy = _info(client, "memory").get("maxmemory_policy", "noeviction")
    cure = "or accept the loss with --accept-volatile-cache."
    if policy != "noeviction":
        raise ServiceError(
            f"Redis may evict paid answers (maxmemory-policy is {policy}, expected noeviction); "
            f"run CONFIG SET maxmemory-policy noeviction, {cure}"
        )
    if not _info(client, "persistence").get("aof_enabled") and not _saves(client):
        raise ServiceError(
            "Redis keeps nothing on disk (appendonly is no and there are no save points), so a "
            f"restart would lose paid answers; run CONFIG SET appendonly yes, {cure}"
        )


def _info(client: "redis.Redis", section: str) -> dict[str, object]:
    return cast("dict[str, object]", client.info(section))


def _saves(client: "redis.Redis") -> bool:
    """Whether there are snapshot rules. Managed services forbid CONFIG and have them."""
    import redis

    try:
        rules = client.config_get("save")
    except redis.ResponseError:
        return True
    return bool(dict(rules).get("save"))
