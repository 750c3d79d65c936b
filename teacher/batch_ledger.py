"""Which batches a job has open, which keys lie in them, and what will not be asked again."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from teacher.patience import patiently

if TYPE_CHECKING:
    import redis

State = Literal["building", "submitting", "submitted"]
LOCK_SECONDS = 60
_PREFIX = "finstill:batch:"
_CANCELED = "canceled"


@dataclass(frozen=True)
class Submission:
    """
    One batch on its way. `id` is ours and the owner of its keys' leases and of its money.

    `requests` questions are in it, `reserved` in dollars, `started` in seconds since the epoch.
    """

    id: str
    job_id: str
    state: State
    started: float
    requests: int = 0
    reserved: float = 0.0
    batch_id: str = ""


@dataclass(frozen=True)
class Counts:
    """Rows of the job and rows held by another job, as of the last pass; questions given up."""

    rows: int = 0
    held: int = 0
    failed: int = 0
    canceled: int = 0


class End(Protocol):
    """A question that came back without an answer."""

    @property
    def key(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def again(self) -> bool: ...


# Gives the lock back only to its holder: a slow one may have lost it.
_UNLOCK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


class BatchLedger:
    """
    The state of all jobs' batches in Redis; needs Redis 6.2, and `client` returns bytes.

    Small hashes and one string of packed keys (32 bytes each) per open batch.
    """

    def __init__(self, client: "redis.Redis", clock: Callable[[], float] = time.time):
        self._client = client
        self._clock = clock
        self._unlock = client.register_script(_UNLOCK)

    @contextmanager
    def lock(self, job_id: str) -> Iterator[bool]:
        """Whether this caller may work on the job's batches now. A dead holder's lapses."""
        name, token = f"{_PREFIX}lock:{job_id}", secrets.token_hex(8)
        held = bool(self._call("set", name, token, nx=True, ex=LOCK_SECONDS))
        try:
            yield held
        finally:
            if held:
                patiently(partial(self._unlock, keys=[name], args=[token]))

    def renew(self, job_id: str) -> None:
        """Keep the lock for longer; called between blocks of work."""
        self._call("expire", f"{_PREFIX}lock:{job_id}", LOCK_SECONDS)

    def open(self, job_id: str) -> list[Submission]:
        """The submissions that are not closed, oldest first."""
        ids = self._call("smembers", f"{_PREFIX}open:{job_id}")
        found = [self._read(raw.decode()) for raw in ids]
        return sorted((s for s in found if s), key=lambda submission: submission.started)

    def begin(self, job_id: str) -> Submission:
        """Announce a submission before its first key is claimed."""
        submission = Submission(secrets.token_hex(8), job_id, "building", self._clock())
        self._write(submission)
        self._call("sadd", f"{_PREFIX}open:{job_id}", submission.id)
        return submission

    def reserving(self, submission: Submission, usd: float) -> Submission:
        """Announce the money that is about to be reserved."""
        return self._write(replace(submission, reserved=usd))

    def submitting(self, submission: Submission, keys: Sequence[str]) -> Submission:
        """Announce that the service is about to be asked: from now on it may be paid."""
        packed = b"".join(map(bytes.fromhex, keys))
        self._call("set", f"{_PREFIX}keys:{submission.id}", packed)
        announced = replace(submission, state="submitting", requests=len(keys))
        return self._write(replace(announced, started=self._clock()))

    def submitted(self, submission: Submission, batch_id: str) -> None:
        """The service took it."""
        self._write(replace(submission, state="submitted", batch_id=batch_id))
        self._call("sadd", f"{_PREFIX}ids", batch_id)

    def keys(self, submission: Submission) -> set[str]:
        """The questions in a submission."""
        packed = self._call("get", f"{_PREFIX}keys:{submission.id}") or b""
        return {packed[i : i + 32].hex() for i in range(0, len(packed), 32)}

    def own_keys(self, job_id: str) -> set[str]:
        """The questions in all open submissions of a job."""
        return set().union(*(self.keys(submission) for submission in self.open(job_id)))

    def close(self, submission: Submission, want_pass: bool) -> bool:
        """Done with it; True for the one caller that closes it."""
        if want_pass:
            self.want_pass(submission.job_id)
        name = f"{_PREFIX}open:{submission.job_id}"
        removed = bool(self._call("srem", name, submission.id))
        self._call("delete", _PREFIX + submission.id, f"{_PREFIX}keys:{submission.id}")
        return removed

    def known_batches(self, job_id: str) -> set[str]:
        """Ids at the service that belong to a submission, or are known to belong to none."""
        noted = {raw.decode() for raw in self._call("smembers", f"{_PREFIX}ids")}
        return noted | {submission.batch_id for submission in self.open(job_id)}

    def note_foreign(self, batch_id: str) -> None:
        """A batch that somebody else submitted with the same account."""
        self._call("sadd", f"{_PREFIX}ids", batch_id)

    def pass_wanted(self, job_id: str) -> bool:
        """Whether questions may be left to submit: at the start, and after failures."""
        return bool(self._call("hget", f"{_PREFIX}job:{job_id}", "passed") != b"1")

    def want_pass(self, job_id: str) -> None:
        """Go through the questions again at the next step."""
        self._call("hdel", f"{_PREFIX}job:{job_id}", "passed")

    def passed(self, job_id: str, rows: int, held: int) -> None:
        """All questions were seen; those held by another job want another look later."""
        values = {"rows": rows, "held": held, "passed": int(held == 0)}
        self._call("hset", f"{_PREFIX}job:{job_id}", mapping=values)

    def note_ends(self, job_id: str, ends: Sequence[End], max_tries: int) -> int:
        """
        Count tries; give up what will never work, what was cancelled and what used up its tries.

        Returns how many questions are to be asked again.
        """
        if not ends:
            return 0
        tries = self._call_all("hincrby", f"{_PREFIX}tries:{job_id}", [(e.key, 1) for e in ends])
        given_up: dict[str, str] = {}
        for end, tried in zip(ends, tries, strict=True):
            if end.kind == _CANCELED:
                given_up[end.key] = _CANCELED
            elif not end.again:
                given_up[end.key] = f"rejected {end.message}"
            elif tried >= max_tries:
                given_up[end.key] = f"{end.kind} {end.message}".strip()
        if given_up:
            self._call("hset", f"{_PREFIX}failed:{job_id}", mapping=given_up)
        return len(ends) - len(given_up)

    def failures(self, job_id: str) -> dict[str, str]:
        """Questions given up, by key: canceled, expired, errored or rejected, with the message."""
        found = self._call("hgetall", f"{_PREFIX}failed:{job_id}")
        return {key.decode(): why.decode() for key, why in found.items()}

    def forgive(self, job_id: str) -> None:
        """Ask again what was given up: for a job that somebody resumes."""
        self._call("delete", f"{_PREFIX}failed:{job_id}", f"{_PREFIX}tries:{job_id}")
        self.want_pass(job_id)

    def counts(self, job_id: str) -> Counts:
        """Where the job stands."""
        values = self._call("hmget", f"{_PREFIX}job:{job_id}", "rows", "held")
        reasons = list(self.failures(job_id).values())
        canceled = reasons.count(_CANCELED)
        rows, held = (int(value or 0) for value in values)
        return Counts(rows, held, len(reasons) - canceled, canceled)

    def _write(self, submission: Submission) -> Submission:
        values = {
            "job_id": submission.job_id,
            "state": submission.state,
            "started": repr(submission.started),
            "reserved": repr(submission.reserved),
            "batch_id": submission.batch_id,
            "requests": submission.requests,
        }
        self._call("hset", _PREFIX + submission.id, mapping=values)
        return submission

    def _read(self, submission_id: str) -> Submission | None:
        found = self._call("hgetall", _PREFIX + submission_id)
        values = {name.decode(): value.decode() for name, value in found.items()}
        if not values:
            return None
        state: Any = values["state"]
        return Submission(
            id=submission_id,
            job_id=values["job_id"],
            state=state,
            started=float(values["started"]),
            requests=int(values["requests"]),
            reserved=float(values["reserved"]),
            batch_id=values["batch_id"],
        )

    def _call(self, command: str, *args: Any, **options: Any) -> Any:
        return patiently(partial(getattr(self._client, command), *args, **options))

    def _call_all(self, command: str, name: str, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        def run() -> list[Any]:
            pipe = self._client.pipeline()
            for row in rows:
                getattr(pipe, command)(name, *row)
            return list(pipe.execute())

        return patiently(run)
