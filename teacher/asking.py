"""Asking questions at the shared pace: the one place that retries, and what stops a job."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import FinstillError, JobCancelled, TeacherError, TeacherRejected
from common.records import Reason, TeacherAnswer, Unanswered
from teacher.base import Question, RateLimited, Reply, RowRejected, Teacher, Unavailable
from teacher.budget import Wallet
from teacher.entries import Entry
from teacher.gate import Gate
from teacher.journal import Journal
from teacher.passage import Anteroom, Passage
from teacher.services import LabellingServices

# 0.25, 0.75, 2.25, 6.75, 20 s: a passing fault costs little, an outage of 15 s is sat out.
FIRST_WAIT_SECONDS = 0.25
WAIT_FACTOR = 3
LONGEST_WAIT_SECONDS = 20.0
# Where the service answers others meanwhile, the fault is the row's: no need to sit anything out.
LONGEST_WAIT_AMONG_SUCCESSES = 1.0
_SIGN_OF_HEALTH = 8
_THROTTLES_PER_ATTEMPT = 20
# So many rows in a row without a single success are no accident of single rows.
_HOPELESS_ROWS = 8
# The teacher's own time-out comes first; this one catches a teacher without.
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a question has no reply."""

    reason: Reason
    detail: str


class Asker:
    """
    Asks one teacher. `async with Asker(...) as asker`, then `ask_all`.

    `fault` is what ended the job (budget, cancellation, a service that refuses everything): nothing
    new is sent from then on, and what is in flight is still waited for and stored. `read` holds
    the answers to the questions asked here, by the question's `id()`.
    """

    def __init__(self, teacher: Teacher, services: LabellingServices):
        self._teacher = teacher
        self._services = services
        self._gate = Gate(services.pace_of(teacher), services.owner)
        self._wallet = Wallet(services.purse, services.owner)
        self._journal = Journal(services.cache, services.purse, services.owner, services.count)
        self.counts = self._journal.counts
        self.read: dict[int, TeacherAnswer | Unanswered] = {}
        self._anteroom = Anteroom()
        self._tasks: set[asyncio.Task[Entry | Failure | None]] = set()
        self._failures = 0
        self._successes = 0
        self.fault: FinstillError | None = None

    async def __aenter__(self) -> "Asker":
        if self._teacher.remote:
            await self._gate.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._tasks:  # interrupted: what is in flight is paid, so it is waited for and kept
            self.stop(JobCancelled("labelling was interrupted; what was answered is kept."))
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._journal.drain()
        if self._teacher.remote:
            await self._wallet.close()
            await self._gate.__aexit__()
        self.counts.tell()

    def stop(self, fault: FinstillError) -> None:
        """Send nothing new."""
        self.fault = self.fault or fault
        self._gate.close(self.fault)

    async def ask_all(self, questions: Sequence[Question]) -> dict[str, Entry | Failure]:
        """What came of each question; those not sent because of `fault` are absent."""
        if self._teacher.remote:
            self._gate.expect(len(questions))
        tasks = {question.key: asyncio.create_task(self._ask(question)) for question in questions}
        self._tasks |= set(tasks.values())
        # shielded: a cancelled caller must not take paid requests along
        outcomes = await asyncio.shield(asyncio.gather(*tasks.values(), return_exceptions=True))
        self._tasks -= set(tasks.values())
        found: dict[str, Entry | Failure] = {}
        for key, outcome in zip(tasks, outcomes, strict=True):
            if isinstance(outcome, Entry | Failure):
                found[key] = outcome
            elif isinstance(outcome, FinstillError):
                self.stop(outcome)
            elif outcome is not None:
                raise outcome
        failures = [outcome for outcome in found.values() if isinstance(outcome, Failure)]
        if failures and len(failures) == len(found):
            self._stop_when_hopeless(failures[0].reason, failures[0].detail)
        return found

    async def _ask(self, question: Question) -> Entry | Failure | None:
        try:
            reply = await self._reply_to(question)
        except RowRejected as error:
            return self._give_up(Reason.REJECTED, str(error))
        except Unavailable as error:
            return self._give_up(Reason.UNAVAILABLE, str(error))
        except FinstillError as error:
            self.stop(error)
            return None
        self._successes += 1
        teacher = self._teacher
        entry = Entry(reply, teacher.name, teacher.provider, teacher.terms)
        await self._journal.keep(question.key, entry)
        # read now, while others are in flight, and not all at once when the last has come
        self.read[id(question)] = teacher.read(question, reply)
        return entry

    def _give_up(self, reason: Reason, detail: str) -> Failure:
        """One failed row; or, after too many without a success, the end of the job."""
        self._failures += 1
        # Refusals come back faster than answers: a round of them proves nothing yet.
        if self._failures >= max(_HOPELESS_ROWS, self._services.pace.max_concurrency):
            self._stop_when_hopeless(reason, detail)
        return Failure(reason, detail)

    def _stop_when_hopeless(self, reason: Reason, detail: str) -> None:
        if self._successes or self._failures < _HOPELESS_ROWS:
            return
        kind = TeacherRejected if reason is Reason.REJECTED else TeacherError
        self.stop(
            kind(
                f"teacher '{self._teacher.name}' answered none of the first {self._failures} rows "
                f"({detail}); mend that and resume the job."
            )
        )

    async def _reply_to(self, question: Question) -> Reply:
        """One reply, with as many tries as the pace allows. Raises the last failure."""
        if not self._teacher.remote:
            return await self._teacher.ask(question)
        attempts, throttles, before = 0, 0, self._successes
        while True:
            try:
                return await self._try(question)
            except RateLimited as error:
                throttles += 1
                self.counts.add(throttled=1)
                if throttles >= _THROTTLES_PER_ATTEMPT * self._services.pace.max_attempts:
                    raise Unavailable(str(error)) from error
            except Unavailable as error:
                attempts += 1
                if attempts >= self._services.pace.max_attempts:
                    raise
                self.counts.add(retried=1)
                healthy = self._successes - before >= _SIGN_OF_HEALTH
                await self._services.sleep(self._wait(attempts, error.retry_after, healthy))
            if self.fault:
                raise self.fault
            self._gate.expect(1)

    def _wait(self, attempts: int, asked_for: float | None, healthy: bool) -> float:
        """Capped exponential back-off with full jitter above a half, or what the service says."""
        longest = LONGEST_WAIT_AMONG_SUCCESSES if healthy else LONGEST_WAIT_SECONDS
        most: float = min(longest, FIRST_WAIT_SECONDS * WAIT_FACTOR ** (attempts - 1))
        return max(asked_for or 0.0, most * (0.5 + 0.5 * self._services.dice()))

    async def _try(self, question: Question) -> Reply:
        """Send once: slot, money, request, and both given back whatever happens."""
        limit = self._services.pace.timeout_seconds + _GRACE_SECONDS
        passage = Passage(self._gate, self._wallet, self._anteroom, question, limit)
        await passage.prepare()
        try:
            async with passage.clock:
                reply = await self._teacher.ask(question, passage.go)
        except RateLimited as error:
            passage.throttled(error.retry_after)
            raise
        except TimeoutError as error:
            passage.failed()
            raise Unavailable(f"'{self._teacher.name}' did not answer in time.") from error
        except BaseException:
            passage.failed()
            raise
        passage.finished(reply)
        return reply
