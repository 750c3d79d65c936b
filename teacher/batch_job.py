"""What a job with message batches works with: the service, its rules, and where things are kept."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from teacher.base import Reply
from teacher.batch_ledger import BatchLedger
from teacher.budget import Purse
from teacher.cache import AnswerCache
from teacher.journal import Count


@dataclass(frozen=True)
class BatchState:
    """What the service says of one batch. `requests` counts them all; `created` since the epoch."""

    id: str
    ended: bool
    requests: int
    created: float


@dataclass(frozen=True)
class BatchResult:
    """One request's end. `again`: an error that another try may not meet."""

    key: str
    kind: Literal["succeeded", "errored", "canceled", "expired"]
    reply: Reply | None = None
    message: str = ""
    again: bool = True


class BatchService(Protocol):
    """What a service offers for batches. Methods raise as Teacher.ask does, and never retry."""

    async def create(self, requests: Mapping[str, Mapping[str, Any]]) -> str:
        """Hand in payloads by question key; returns the batch's id."""
        ...

    async def state(self, batch_id: str) -> BatchState:
        """How far a batch is."""
        ...

    def results(self, batch_id: str) -> AsyncGenerator[BatchResult, None]:
        """The results of an ended batch, in no order."""
        ...

    def recent(self, since: float) -> AsyncIterator[BatchState]:
        """Batches of the account created since then, newest first."""
        ...

    async def cancel(self, batch_id: str) -> None:
        """Stop what has not been worked on."""
        ...


@dataclass(frozen=True)
class BatchRules:
    """
    `max_requests` and `max_bytes` a batch (the service allows 100,000 and 256 MB; smaller ones
    keep memory low and come back in parts). `grace_seconds`: a batch whose submission was cut off
    must show in the service's list within this time. `max_tries` per question.
    """

    max_requests: int = 10_000
    max_bytes: int = 64 << 20
    max_tries: int = 3
    grace_seconds: float = 60.0
    poll_seconds: tuple[float, float] = (10.0, 300.0)


@dataclass(frozen=True)
class BatchJob:
    """One job's batches and what they work with; `terms` and `teacher` are for the cache."""

    job_id: str
    teacher: str
    provider: str
    terms: str
    service: BatchService
    cache: AnswerCache
    purse: Purse
    ledger: BatchLedger
    count: Count
    rules: BatchRules = BatchRules()
    clock: Callable[[], float] = time.time
