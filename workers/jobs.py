"""Job records in Redis: what is asked for, how far it is, what went wrong."""

import json
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field
from pydantic_core import from_json

from common.errors import InputError
from common.records import Record
from teacher.budget import spent_by
from teacher.pace_state import PACE_KEY

if TYPE_CHECKING:
    import redis


class State(StrEnum):
    """Where a job or a stage stands."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"


# of a labelling stage's counters, what stands beside its bar
_TOLD = ("cached", "failed", "throttled", "usd")
_TOTALS = "finstill:totals"
ENDED = {State.DONE, State.FAILED, State.CANCELLED, State.PAUSED}


class Fault(Record):
    """Why something stopped: the error's class and its sentence."""

    kind: str
    message: str
    exit_code: int = 1


class StageRecord(Record):
    """One stage as the workers report it; `done` of `total` in `unit`s. Times in seconds."""

    name: str
    title: str
    state: State = State.WAITING
    done: int = 0
    total: int = 0
    unit: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    worker: str | None = None
    losses: int = 0
    info: dict[str, Any] = Field(default_factory=dict)
    fault: Fault | None = None

    @property
    def per_second(self) -> float | None:
        """Units a second since the stage began; None in its first second."""
        passed = time.time() - (self.started_at or 0)
        return self.done / passed if passed > 1 else None


class Job(Record):
    """
    A run as a job. `state` follows from the stages and from what people asked for.

    `pace`: how many requests at a time each service it asks is sent now, by all jobs together.
    """

    id: str
    kind: str
    created_at: float
    state: State
    stages: list[StageRecord]
    counters: dict[str, float] = Field(default_factory=dict)
    pace: dict[str, float] = Field(default_factory=dict)
    fault: Fault | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state in ENDED


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
        return [_job(name, _mapping(head), _mapping(stages), chunks, paid.get(name))
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
        """
        Set what one chunk has counted so far; a chunk done twice is counted once.

        What it has more than before is added to the totals of all jobs.
        """
        key, field = f"{_key(job_id)}:chunks", str(chunk)
        before = from_json(cast("bytes | None", self._redis.hget(key, field)) or b"{}")
        pipe = self._redis.pipeline()
        pipe.hset(key, field, json.dumps(counts))
        for name, count in counts.items():
            if (more := count - before.get(name, 0)) > 0:
                pipe.hincrbyfloat(_TOTALS, name, more)
        pipe.execute()

    def totals(self) -> dict[str, float]:
        """What all chunks of all jobs have counted since this Redis began to count."""
        return {n.decode(): float(v) for n, v in _mapping(self._redis.hgetall(_TOTALS)).items()}

    def finish_chunk(self, job_id: str, chunk: int) -> int:
        """Note that a chunk is done; how many are."""
        key = f"{_key(job_id)}:chunks_done"
        pipe = self._redis.pipeline()
        pipe.sadd(key, chunk)
        pipe.scard(key)
        return int(pipe.execute()[1])

    def counters(self, job_id: str) -> dict[str, float]:
        """The chunks' counts, summed."""
        return _sum(cast(list[bytes], self._redis.hvals(f"{_key(job_id)}:chunks")))

    def clear_counters(self, job_id: str) -> None:
        """Forget the chunks' counts, when labelling starts over with another input."""
        self._redis.delete(f"{_key(job_id)}:chunks")

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


def _job(
    job_id: str,
    head: dict[bytes, bytes],
    records: dict[bytes, bytes],
    chunks: list[bytes],
    paid: float | None,
) -> Job:
    counters = _sum(chunks) | ({} if paid is None else {"usd": paid})
    stages = [
        _with_counts(StageRecord.model_validate_json(records[name.encode()]), counters)
        for name in json.loads(head[b"order"])
        if name.encode() in records
    ]
    closed, fault = head.get(b"state"), head.get(b"fault")
    told = Fault.model_validate_json(fault) if fault else None
    return Job(
        id=job_id,
        kind=head[b"kind"].decode(),
        created_at=float(head[b"created_at"]),
        state=_state_of(stages, closed.decode() if closed else None, cancelled=b"cancel" in head),
        stages=stages,
        counters=counters,
        fault=told or next((s.fault for s in stages if s.fault), None),
    )


def _with_counts(stage: StageRecord, counters: dict[str, float]) -> StageRecord:
    """The labelling stage goes on in chunks: its rows and money are what they have counted."""
    if stage.name != "label" or stage.state is State.DONE or not counters.get("rows"):
        return stage
    told = {name: counters[name] for name in _TOLD if counters.get(name)}
    done = max(stage.done, min(stage.total, int(counters["rows"])))
    return stage.model_copy(update={"done": done, "unit": "rows", "info": stage.info | told})


def _sum(chunks: list[bytes]) -> dict[str, float]:
    """Of all chunks in one go: a job has thousands, and many ask for it every second."""
    total: dict[str, float] = {}
    for counts in from_json(b"[" + b",".join(chunks) + b"]"):
        for name, value in counts.items():
            total[name] = total.get(name, 0) + value
    return total


def _state_of(stages: list[StageRecord], closed: str | None, cancelled: bool) -> State:
    states = [stage.state for stage in stages]
    if closed:
        return State(closed)
    if all(state is State.DONE for state in states):
        return State.DONE
    for decisive in (State.FAILED, State.PAUSED, State.CANCELLED):
        if decisive in states:
            return decisive
    if cancelled and State.RUNNING not in states:
        return State.CANCELLED
    started = any(state in (State.RUNNING, State.DONE) for state in states)
    return State.RUNNING if started else State.QUEUED


def _key(job_id: str) -> str:
    return f"finstill:job:{job_id}"


def _mapping(reply: Any) -> dict[bytes, bytes]:
    return cast(dict[bytes, bytes], reply)
