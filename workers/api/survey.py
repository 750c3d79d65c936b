"""What the service knows of cache, teachers, queues and Redis: read only, bounded in cost."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

from teacher.budget import spent_by_all
from teacher.pace_state import PACE_KEY
from workers.api.models import CacheStats, TeacherList, TeacherView
from workers.api.state import Services
from workers.graph import QUEUES
from workers.registry import WorkerRecord, living_workers

ANSWERS = "finstill:a:*"
BROKER_PREFIX = "finstill:celery:"
_MOST_KEYS = 2_000_000


@dataclass(frozen=True)
class Totals:
    """Sums over all jobs since this Redis began to count."""

    asked: float
    cached: float
    unanswered: float
    usd: float
    input_tokens: float
    output_tokens: float


def totals(services: Services) -> Totals:
    """What labelling counted and paid; none of it ever falls, as a counter of Prometheus must."""
    counted: Counter[str] = Counter()
    counted.update(services.jobs.totals())
    return Totals(
        asked=counted["asked"],
        cached=counted["cached"],
        unanswered=counted["failed"],
        usd=spent_by_all(services.redis),
        input_tokens=counted["input_tokens"],
        output_tokens=counted["output_tokens"],
    )


def cache_stats(services: Services) -> CacheStats:
    """Kept answers are counted by walking the keys, a block at a time."""
    sums = totals(services)
    return CacheStats(
        answers=count_keys(services, ANSWERS),
        memory_bytes=int(redis_info(services).get("used_memory", 0)),
        asked=int(sums.asked),
        cached=int(sums.cached),
        usd=round(sums.usd, 6),
    )


def count_keys(services: Services, pattern: str) -> int:
    """How many keys match, up to two million."""
    found = 0
    for _ in services.redis.scan_iter(match=pattern, count=10_000):
        found += 1
        if found >= _MOST_KEYS:
            break
    return found


def teachers(services: Services) -> TeacherList:
    """Each service's shared pace as the workers keep it."""
    items = []
    for key in sorted(services.redis.scan_iter(match=PACE_KEY + "*", count=10_000)):
        raw = cast("bytes | None", services.redis.get(key))
        if raw:
            name = services.scrub(key.decode().removeprefix(PACE_KEY))
            items.append(TeacherView(name=name, state=_pace(json.loads(raw))))
    return TeacherList(items=items, usd=round(spent_by_all(services.redis), 6))


def _pace(state: dict[str, Any]) -> dict[str, Any]:
    shown = {k: v for k, v in state.items() if isinstance(v, int | float | bool)}
    shown["workers"] = len(state.get("members", {}))
    return shown


def queue_depths(services: Services) -> dict[str, int]:
    """Tasks waiting in each queue."""
    pipe = services.redis.pipeline(transaction=False)
    for queue in QUEUES:
        pipe.llen(BROKER_PREFIX + queue)
    return dict(zip(QUEUES, (int(n) for n in pipe.execute()), strict=True))


def workers(services: Services) -> list[WorkerRecord]:
    """Workers that are alive."""
    return living_workers(services.redis)


def redis_info(services: Services) -> dict[str, Any]:
    """Redis's own account of itself."""
    return services.redis.info()
