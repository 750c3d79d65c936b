"""
Message batches as a state machine that any worker can take one step further.

Nothing waits in here: `advance_batches` does what can be done now and says when to call it again.
A batch is building -> submitting -> submitted -> closed. Each state is in Redis before the step it
announces is taken, so that a crash between two of them is found and resolved, never paid twice.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from common.records import Usage
from teacher.base import Question, RateLimited, Unavailable
from teacher.batch_job import BatchJob, BatchResult, BatchService
from teacher.batch_ledger import Submission
from teacher.batch_submit import drop_submission, submit_pending
from teacher.entries import Entry

logger = logging.getLogger(__name__)

_STORED_AT_A_TIME = 500
_CLOCKS_DIFFER_SECONDS = 3600.0


@dataclass(frozen=True)
class BatchProgress:
    """
    Where the job stands. `next_poll_seconds` None: finished, every row is answered or failed.

    `in_batches` requests are at the service, `held` rows are being asked by another job, `failed`
    and `canceled` questions will not be asked again (teacher.batch_ledger says why).
    """

    rows: int
    in_batches: int
    held: int
    failed: int
    canceled: int
    usage: Usage
    next_poll_seconds: float | None


async def advance_batches(
    job: BatchJob, questions: Callable[[], Iterable[Question]], submit: bool = True
) -> BatchProgress:
    """
    Resolve what was cut off, collect what has ended, submit what is still to be asked.

    `questions` gives the job's questions from the start; it is called only when something is to
    be submitted. Calling this twice at once is safe: the second call does nothing. Raises
    JobPaused at the budget and TeacherRejected; all is kept, and the next call goes on.
    """
    with job.ledger.lock(job.job_id) as held:
        if not held:
            return _progress(job, Usage(), wait=job.rules.poll_seconds[0])
        usage, wait = Usage(), None
        try:
            usage = await collect_ended(job)
            if submit and job.ledger.pass_wanted(job.job_id):
                await submit_pending(job, questions)
        except (RateLimited, Unavailable) as error:
            logger.warning("batches of job %s: %s", job.job_id, error)
            wait = error.retry_after or job.rules.poll_seconds[0]
        return _progress(job, usage, wait, submit)


async def cancel_batches(job: BatchJob) -> int:
    """
    Ask the service to stop the job's batches; returns how many. What was done is still paid.

    Go on calling `advance_batches(..., submit=False)` until it is finished: it collects the rest.
    """
    open_ones = [s for s in job.ledger.open(job.job_id) if s.state == "submitted"]
    for submission in open_ones:
        await job.service.cancel(submission.batch_id)
    return len(open_ones)


async def collect_ended(job: BatchJob) -> Usage:
    """One look at every open batch. Returns the usage of what was collected."""
    usage = Usage()
    for submission in job.ledger.open(job.job_id):
        if submission.state == "building":
            drop_submission(job, submission)
        elif submission.state == "submitting":
            await _find_again(job, submission)
        elif (await job.service.state(submission.batch_id)).ended:
            usage += await _collect(job, submission)
    return usage


async def _find_again(job: BatchJob, submission: Submission) -> None:
    """
    A crash or a cut connection while submitting: did the service take the batch?

    It is ours if its results carry our keys, which can be seen once it has ended. Until then
    nothing is submitted again. With no candidate in the list after the grace time it was never
    taken.
    """
    known, keys = job.ledger.known_batches(job.job_id), job.ledger.keys(submission)
    undecided = False
    async for state in job.service.recent(submission.started - _CLOCKS_DIFFER_SECONDS):
        # a service may count nothing before the end
        if state.id in known or state.requests not in (submission.requests, 0):
            continue
        if not state.ended:
            undecided = True
        elif await _first_key(job.service, state.id) in keys:
            logger.info("job %s: batch %s is found again", job.job_id, state.id)
            return job.ledger.submitted(submission, state.id)
        else:
            job.ledger.note_foreign(state.id)
    late = job.clock() > submission.started + job.rules.grace_seconds
    if late and not undecided:
        drop_submission(job, submission)


async def _first_key(service: BatchService, batch_id: str) -> str | None:
    async with aclosing(service.results(batch_id)) as results:
        first = await anext(results, None)
    return first.key if first else None


async def _collect(job: BatchJob, submission: Submission) -> Usage:
    """Results into the cache first, then the books: a crash between only repeats the former."""
    usage, stored, lost = Usage(), 0, job.ledger.keys(submission)
    block: list[BatchResult] = []
    ends: list[BatchResult] = []
    async for result in job.service.results(submission.batch_id):
        lost.discard(result.key)
        if result.reply is None:
            ends.append(result)
            continue
        usage += result.reply.usage
        block.append(result)
        if len(block) >= _STORED_AT_A_TIME:
            stored += _store(job, submission, block)
            job.ledger.renew(job.job_id)
    stored += _store(job, submission, block)
    ends += [BatchResult(key, "errored", message="the batch has no result for it") for key in lost]
    job.cache.release([end.key for end in ends], submission.id)
    again = job.ledger.note_ends(job.job_id, ends, job.rules.max_tries)
    if job.ledger.close(submission, want_pass=again > 0):
        job.purse.settle(submission.id, usage.usd, max(0.0, submission.reserved - usage.usd))
        job.count(
            asked=stored,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            usd=usage.usd,
        )
    logger.info(
        "job %s: batch %s gave %d answers, %d to ask again",
        *(job.job_id, submission.batch_id, stored, again),
    )
    return usage


def _store(job: BatchJob, submission: Submission, block: list[BatchResult]) -> int:
    entries = {
        result.key: Entry(result.reply, job.teacher, job.provider, job.terms)
        for result in block
        if result.reply
    }
    job.cache.store(entries, submission.id)
    block.clear()
    return len(entries)


def _progress(
    job: BatchJob, usage: Usage, wait: float | None, submit: bool = True
) -> BatchProgress:
    open_ones = job.ledger.open(job.job_id)
    counts = job.ledger.counts(job.job_id)
    if wait is None and (open_ones or (submit and job.ledger.pass_wanted(job.job_id))):
        wait = _next_poll(job, open_ones)
    return BatchProgress(
        rows=counts.rows,
        in_batches=sum(submission.requests for submission in open_ones),
        held=counts.held,
        failed=counts.failed,
        canceled=counts.canceled,
        usage=usage,
        next_poll_seconds=wait,
    )


def _next_poll(job: BatchJob, open_ones: Sequence[Submission]) -> float:
    """A tenth of the youngest batch's age, within bounds: batches take minutes to a day."""
    least, most = job.rules.poll_seconds
    if not open_ones:
        return least
    age = job.clock() - max(submission.started for submission in open_ones)
    return min(most, max(least, age / 10))
