"""From a job's questions to batches at the service: claimed, paid for, announced, handed in."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from common.errors import JobPaused, TeacherRejected
from teacher.base import Question
from teacher.batch_job import BatchJob
from teacher.batch_ledger import Submission
from teacher.cache import Claim

logger = logging.getLogger(__name__)

# The service ends a batch after 24 hours; leases and reservations live a little longer.
ALIVE_SECONDS = 26 * 3600.0
_CLAIMED_AT_A_TIME = 500


async def submit_pending(job: BatchJob, questions: Callable[[], Iterable[Question]]) -> None:
    """
    Submit every question that has no answer, is in no batch and was not given up.

    Raises JobPaused when the budget does not even buy one more and nothing is at the service;
    while something is, its reservation may come back, and the pass is wanted again.
    """
    given_up = job.ledger.failures(job.job_id)
    draft, rows, held = _Draft(job), 0, 0
    stream = iter(questions())
    while block := list(islice(stream, draft.room)):
        rows += len(block)
        held += draft.claim([question for question in block if question.key not in given_up])
        job.ledger.renew(job.job_id)
        if draft.full:
            if not await draft.submit():
                return
            draft = _Draft(job)
    if await draft.submit():
        job.ledger.passed(job.job_id, rows, held)


def drop_submission(job: BatchJob, submission: Submission) -> None:
    """Forget a submission the service never got: its keys and its money are free again."""
    job.cache.beat(submission.id, seconds=0)
    job.purse.settle(submission.id, 0.0, submission.reserved)
    job.ledger.close(submission, want_pass=True)


class _Draft:
    """One batch in the making. Its submission is announced before its first key is claimed."""

    def __init__(self, job: BatchJob):
        self._job = job
        self._questions: dict[str, Question] = {}
        self._bytes = 0
        self._submission: Submission | None = None

    @property
    def room(self) -> int:
        """How many questions to look at next."""
        return min(_CLAIMED_AT_A_TIME, self._job.rules.max_requests - len(self._questions))

    @property
    def full(self) -> bool:
        """Whether the batch should go now."""
        rules = self._job.rules
        return len(self._questions) >= rules.max_requests or self._bytes >= rules.max_bytes

    def claim(self, questions: list[Question]) -> int:
        """Take in what nobody has answered or is asking; returns how many others are asking."""
        if not questions:
            return 0
        self._submission = self._submission or self._job.ledger.begin(self._job.job_id)
        verdicts = self._job.cache.claim([q.key for q in questions], self._submission.id)
        held: list[str] = []
        for question, verdict in zip(questions, verdicts, strict=True):
            if verdict is Claim.MINE and question.key not in self._questions:
                self._questions[question.key] = question
                self._bytes += len(json.dumps(question.payload))
            elif verdict is Claim.HELD:
                held.append(question.key)
        ours = self._job.ledger.own_keys(self._job.job_id) if held else set()
        return sum(key not in ours for key in held)

    async def submit(self) -> bool:
        """Hand the batch in. False: the budget allowed only a part of it, or nothing."""
        if self._submission is None:
            return True
        if not self._questions:
            drop_submission(self._job, self._submission)
            return True
        wanted = len(self._questions)
        self._job.cache.beat(self._submission.id, ALIVE_SECONDS)
        submission = self._reserve(self._submission)
        if not self._questions:
            drop_submission(self._job, submission)
            self._pause_unless_money_may_return()
            return False
        submission = self._job.ledger.submitting(submission, list(self._questions))
        payloads = {key: question.payload for key, question in self._questions.items()}
        try:
            batch_id = await self._job.service.create(payloads)
        except TeacherRejected:
            drop_submission(self._job, submission)
            raise
        self._job.ledger.submitted(submission, batch_id)
        logger.info("job %s: batch %s with %d requests", self._job.job_id, batch_id, len(payloads))
        return len(payloads) == wanted

    def _reserve(self, submission: Submission) -> Submission:
        """Money for all questions, or for the first half of them, or the first quarter..."""
        for part in _halves(list(self._questions.values())):
            usd = sum(question.most_usd for question in part)
            submission = self._job.ledger.reserving(submission, usd)
            if usd == 0 or self._job.purse.reserve(submission.id, usd, usd).usd > 0:
                self._keep_only(part, submission)
                return submission
        submission = self._job.ledger.reserving(submission, 0.0)
        self._keep_only([], submission)
        return submission

    def _keep_only(self, part: list[Question], submission: Submission) -> None:
        kept = {question.key: question for question in part}
        rest = self._questions.keys() - kept.keys()
        self._job.cache.release(rest, submission.id)
        self._questions = kept

    def _pause_unless_money_may_return(self) -> None:
        if self._job.ledger.open(self._job.job_id):
            return
        raise JobPaused(
            f"the budget of {self._job.purse.max_usd} dollars is reached; go on "
            "with `finstill jobs resume JOB --max-usd DOLLARS`."
        )


def _halves(questions: list[Question]) -> Iterator[list[Question]]:
    while questions:
        yield questions
        questions = questions[: len(questions) // 2]
