"""What a job's record says: its stages, counters, faults, and the state that follows from them."""

import json
import time
from enum import StrEnum
from typing import Any

from pydantic import Field
from pydantic_core import from_json

from common.records import Record


class State(StrEnum):
    """Where a job or a stage stands."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"


ENDED = {State.DONE, State.FAILED, State.CANCELLED, State.PAUSED}
WAITS = "waits"  # the figure that says what a queued stage waits for
STEPS = "steps"  # the unit of a training, which may end before the last that was planned
NOTE = "note"  # the one that is a sentence
REASONS = (WAITS, NOTE)  # those that say why a stage which came back to the queue did
# of a labelling stage's counters, what stands beside its bar
_TOLD = ("cached", "failed", "throttled", "usd")


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
        """
        Units a second since the stage began; None in its first second. A training tells the seconds
        of its steps itself: a resumed one begins with many that were done before.
        """
        if seconds := self.info.get("seconds"):
            return 1 / float(seconds)
        passed = time.time() - (self.started_at or 0)
        return self.done / passed if passed > 1 else None

    @property
    def whole(self) -> int:
        """What it has done when it has ended well: all, but of a training the steps it made."""
        return self.done if self.unit == STEPS else max(self.done, self.total)


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


def job_from(
    job_id: str,
    head: dict[bytes, bytes],
    records: dict[bytes, bytes],
    chunks: list[bytes],
    paid: float | None,
) -> Job:
    """
    A job from what lies in Redis: its head, its stages, the counts of its chunks, what it `paid`.
    """
    counters = summed(chunks) | ({} if paid is None else {"usd": paid})
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


def summed(chunks: list[bytes]) -> dict[str, float]:
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
