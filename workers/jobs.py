"""Job records as they lie in Redis, and how workers and submitters change them."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from common.errors import InputError
from teacher.budget import spent_by
from teacher.pace_state import PACE_KEY
from workers.job_records import Fault, Job, StageRecord, State, job_from

if TYPE_CHECKING:
    import redis


_TOTALS = "finstill:totals"


class Jobs:
    """The job records of one Redis."""

    def __init__(self, client: "redis.Redis"):
        self._redis = client

    def submit(self, job_id: str, kind: str, stages: list[StageRecord]) -> None:
        """Record a job; an earlier one of the same id starts over where its outputs end."""
        key = _key(job_id)
        pipe = self._redis.pipeline()
        pipe.delete(f"{key}:stages", f"{key}:chunks_done")
        pipe.hdel(key, "cancel", "state", "fault")
        pipe.hset(key, mapping={"kind": kind, "created_at": str(time.time()),
                                "order": json.dumps([s.name for s in stages])})  # fmt: skip
        pipe.hset(
            f"{key}:stages", mapping={stage.name: stage.model_dump_json() for stage in stages}
        )
        pipe.zadd("finstill:jobs", {job_id: time.time()})
        pipe.execute()

    def get(self, job_id: str) -> Job:
        """One job by its id or a unique beginning of it, without its pace. Raises InputError."""
        return self.many([self._resolve(job_id)])[0]

    def with_pace(self, job: Job) -> Job:
        """The same, with how fast the services it asks are asked now."""
        return job if job.ended else job.model_copy(update={"pace": self._pace(job.id)})

    def note_service(self, job_id: str, name: str) -> None:
        """The job asks a service under the pace of this name."""
        self._redis.sadd(f"{_key(job_id)}:services", name)

    def _pace(self, job_id: str) -> dict[str, float]:
        members = cast(set[bytes], self._redis.smembers(f"{_key(job_id)}:services"))
        names = sorted(name.decode() for name in members)
        found = self._redis.mget([PACE_KEY + name for name in names]) if names else []
        states = zip(names, cast(list[bytes | None], found), strict=True)
        return {name: float(json.loads(raw)["limit"]) for name, raw in states if raw}

    def many(self, ids: Sequence[str]) -> list[Job]:
        """The jobs of exactly these ids, in two round trips; unknown ones are left out."""
        pipe = self._redis.pipeline(transaction=False)
        for job_id in ids:
            key = _key(job_id)
            pipe.hgetall(key)
            pipe.hgetall(f"{key}:stages")
            pipe.hvals(f"{key}:chunks")
        found = iter(pipe.execute() if ids else [])
        paid = spent_by(self._redis, ids)
        parts = zip(ids, found, found, found, strict=False)
        return [job_from(name, _mapping(head), _mapping(stages), chunks, paid.get(name))
                for name, head, stages, chunks in parts if head]  # fmt: skip

    def all(self, most: int = 100) -> list[Job]:
        """The newest jobs first."""
        ids = cast(list[bytes], self._redis.zrevrange("finstill:jobs", 0, most - 1))
        return self.many([job_id.decode() for job_id in ids])

    def exists(self, job_id: str) -> bool:
        """Whether there is a job of exactly this id."""
        return bool(self._redis.exists(_key(job_id)))

    def update(self, job_id: str, stage: StageRecord) -> None:
        """Replace one stage's record."""
        self._redis.hset(f"{_key(job_id)}:stages", stage.name, stage.model_dump_json())

    def change_waiting(self, job_id: str, name: str, **changes: Any) -> None:
        """Change a stage's record if the stage still waits; one that was begun meanwhile stays."""
        key = f"{_key(job_id)}:stages"

        def change(pipe: "redis.client.Pipeline") -> None:
            raw = cast("bytes | None", pipe.hget(key, name))
            pipe.multi()
            record = StageRecord.model_validate_json(raw) if raw else None
            if record and record.state is State.WAITING:
                changed = record.model_copy(update=changes)
                pipe.hset(key, name, changed.model_dump_json())

        self._redis.transaction(change, key)

    def stage(self, job_id: str, name: str) -> StageRecord | None:
        """One stage's record."""
        raw = cast("bytes | None", self._redis.hget(f"{_key(job_id)}:stages", name))
        return StageRecord.model_validate_json(raw) if raw else None

    def end(self, job_id: str, state: State, fault: Fault | None = None) -> None:
        """Close a job that will not go on by itself."""
        self._redis.hset(_key(job_id), "state", state.value)
        if fault:
            self._redis.hset(_key(job_id), "fault", fault.model_dump_json())

    def cancel(self, job_id: str) -> bool:
        """Ask every worker to stop at the next safe point; False when somebody asked before."""
        return bool(self._redis.hset(_key(job_id), "cancel", "1"))

    def is_cancelled(self, job_id: str) -> bool:
        """Whether somebody asked for the job's end, or it ended already."""
        wish, state = cast(list[bytes | None], self._redis.hmget(_key(job_id), "cancel", "state"))
        return wish is not None or state is not None

    def count_chunk(self, job_id: str, chunk: int, counts: dict[str, float]) -> None:
        """Set what one chunk has counted so far; a chunk done twice is counted once."""
        self._redis.hset(f"{_key(job_id)}:chunks", str(chunk), json.dumps(counts))

    def add_to_totals(self, news: Mapping[str, float]) -> None:
        """Add what was counted since it was last told to the totals of all jobs."""
        pipe = self._redis.pipeline()
        for name, count in news.items():
            pipe.hincrbyfloat(_TOTALS, name, count)
        pipe.execute()

    def totals(self) -> dict[str, float]:
        """What all jobs have counted since this Redis began to count; none of it ever falls."""
        return {n.decode(): float(v) for n, v in _mapping(self._redis.hgetall(_TOTALS)).items()}

    def finish_chunk(self, job_id: str, chunk: int) -> int:
        """Note that a chunk is done; how many are."""
        key = f"{_key(job_id)}:chunks_done"
        pipe = self._redis.pipeline()
        pipe.sadd(key, chunk)
        pipe.scard(key)
        return int(pipe.execute()[1])

    def count_loss(self, job_id: str, stage: str, progress: int) -> int:
        """
        How often the stage was taken over without having got further than `progress`.

        A worker that dies of its task would otherwise die of it for ever.
        """
        key, field = f"{_key(job_id)}:losses", f"{stage}@{progress}"
        return self._redis.hincrby(key, field, 1)

    def _resolve(self, job_id: str) -> str:
        if self.exists(job_id):
            return job_id
        ids = [
            raw.decode() for raw in cast(list[bytes], self._redis.zrevrange("finstill:jobs", 0, -1))
        ]
        matches = [name for name in ids if job_id and name.startswith(job_id)]
        if len(matches) == 1:
            return matches[0]
        listing = ", ".join((matches or ids)[:5]) or "none"
        wanted = "names several jobs" if matches else "is no job"
        raise InputError(f"'{job_id}' {wanted} here; known: {listing}.")


def _key(job_id: str) -> str:
    return f"finstill:job:{job_id}"


def _mapping(reply: Any) -> dict[bytes, bytes]:
    return cast(dict[bytes, bytes], reply)
