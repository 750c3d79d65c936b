"""What a teacher is: it turns an example into a question, asks it once, and reads the reply."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from common.errors import TeacherError
from common.fingerprint import canonical_json, digest
from common.records import Example, TeacherAnswer, Unanswered, Usage


@dataclass(frozen=True)
class Question:
    """
    One request to one teacher.

    `identity` holds everything that can change the answer and nothing that cannot (no example
    id, no timeout, no address); `key` is its digest and the address of the answer in the cache.
    `payload` is what goes over the wire. Token numbers are estimates for pace and budget.
    """

    example_id: str
    text: str
    sample: int
    identity: Mapping[str, Any]
    payload: Mapping[str, Any] = field(repr=False)
    input_tokens: int = 0
    max_output_tokens: int = 0

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of `identity`."""
        return digest(self.identity)


@dataclass(frozen=True)
class Reply:
    """
    The raw response of the service, kept so that a better parser can read it again.

    `body` is the JSON object as received; `model` the version the service named.
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
    """429: the service wants us slower; `retry_after` in seconds where it said so."""

    def __init__(self, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(TeacherError):
    """5xx, 529, a cut connection, a time-out, a body that is no JSON: worth another try."""

    def __init__(self, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.retry_after = retry_after


class Teacher(Protocol):
    """
    One service with one model and one prompt.

    `ask` sends one request and never retries: retries, pace and money live in
    teacher/labelling.py. It raises RateLimited or Unavailable (try again) or
    common.errors.TeacherRejected (never will work).
    """

    name: str
    paid: bool

    def question(self, example: Example, sample: int) -> Question:
        """What would be asked of this example; pure."""
        ...

    async def ask(self, question: Question) -> Reply:
        """Send one request and wait for its reply."""
        ...

    def read(self, question: Question, reply: Reply) -> TeacherAnswer | Unanswered:
        """Validate a reply; pure, so that cached replies can be read again."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
