"""What a teacher is: it turns an example into a question, asks it once, and reads the reply."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from common.errors import TeacherError, TeacherRejected
from common.fingerprint import canonical_json, digest
from common.records import Example, TeacherAnswer, Unanswered, Usage


@dataclass(frozen=True)
class Question:
    """
    One request to one teacher.

    `identity` holds everything that can change the answer and nothing that cannot (no example
    id, no timeout, no address); `key` is its digest and the address of the answer in the cache.
    What is the same for all questions of a job may enter as a digest computed once. `payload` is
    what goes over the wire. Tokens are estimates for the pace; `most_usd` is an upper bound of
    the request's price, reserved from the budget before it is sent (0: nothing to pay).
    """

    example_id: str
    text: str
    sample: int
    identity: Mapping[str, Any]
    payload: Mapping[str, Any] = field(repr=False)
    input_tokens: int = 0
    max_output_tokens: int = 0
    most_usd: float = 0.0

    @cached_property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of `identity`, 64 hexadecimal digits."""
        return digest(self.identity)


@dataclass(frozen=True)
class Reply:
    """
    The raw response of the service, kept so that a better parser can read it again.

    `body` is the JSON object as received; `model` the version the service named. `received_at`
    in seconds since the epoch, `seconds` from sending to receiving.
    """

    body: Mapping[str, Any] = field(repr=False)
    usage: Usage
    model: str
    received_at: float = 0.0
    seconds: float = 0.0

    def dump(self) -> str:
        """Canonical JSON of the whole reply."""
        return canonical_json(
            {
                "body": self.body,
                "usage": self.usage.model_dump(),
                "model": self.model,
                "received_at": self.received_at,
                "seconds": self.seconds,
            }
        )


class RateLimited(TeacherError):
    """
    The service wants us slower (429, 503 or 529); `retry_after` in seconds where it said so.

    Slows all workers down; does not count as a failed attempt of the row.
    """

    def __init__(self, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(TeacherError):
    """Another 5xx, a cut connection, a time-out, a body that is no JSON: worth another try."""

    def __init__(self, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.retry_after = retry_after


class RowRejected(TeacherRejected):
    """
    400, 413 or 422: this request will never work, others may.

    A plain TeacherRejected (401, 403, 404) means that none will, and ends the job.
    """


Go = Callable[[], Awaitable[None]]


async def at_once() -> None:
    """Nothing to wait for."""


class Teacher(Protocol):
    """
    One service with one model and one prompt.

    `ask` sends one request and never retries: retries, pace and money live in
    teacher/labelling.py. It raises RateLimited or Unavailable (try again), RowRejected (this
    row will never work) or common.errors.TeacherRejected (no row ever will).
    """

    @property
    def name(self) -> str:
        """How the teacher is called in answers, tables and the cache's provenance."""
        ...

    @property
    def provider(self) -> str:
        """The service: `claude`, `vllm`, `recorded`. Services share one pace each."""
        ...

    @property
    def model(self) -> str:
        """The model's id as configured."""
        ...

    @property
    def terms(self) -> str:
        """What the service's terms or the model's licence say on using its outputs."""
        ...

    @property
    def paid(self) -> bool:
        """Whether an answer costs money, so that losing one is a loss."""
        ...

    @property
    def remote(self) -> bool:
        """Whether asking goes over a network, so that pace and retries are needed."""
        ...

    @property
    def samples(self) -> int:
        """How often each text is asked."""
        ...

    def question(self, example: Example, sample: int) -> Question:
        """What would be asked of this example; pure. Samples count from 0."""
        ...

    def repair(self, question: Question, reply: Reply, fault: Unanswered) -> Question | None:
        """
        A second question after a reply that could not be used, with a key of its own; pure.

        None where asking again makes no sense.
        """
        ...

    async def ask(self, question: Question, go: Go = at_once) -> Reply:
        """
        Send one request and wait for its reply.

        Awaits `go` once, when all is ready to be sent: slot and money are taken there and the
        request's time begins. Lets through whatever `go` raises.
        """
        ...

    def read(self, question: Question, reply: Reply) -> TeacherAnswer | Unanswered:
        """Validate a reply; pure, so that cached replies can be read again."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
