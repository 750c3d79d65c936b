"""Message batches: one step at a time, so that no worker waits for hours."""

import time
from collections.abc import Iterator

from common.data.store import read_records
from common.errors import JobCancelled, UsageError
from common.records import Example
from teacher.backends.claude import Claude
from teacher.backends.claude_batches import batch_job
from teacher.base import Question
from teacher.batch_answers import questions_of
from teacher.batch_ledger import BatchLedger
from teacher.batches import BatchProgress, advance_batches, cancel_batches
from teacher.loops import run
from workers.run_directory import read_json
from workers.stages.asking import Asking, batch_job_id, in_batches
from workers.stages.context import StageContext


def advance_all_batches(context: StageContext) -> float | None:
    """
    Collect what has ended and submit what is to be asked, for every teacher in batch mode.

    Returns the seconds after which to look again, None when every batch is collected. Raises
    JobPaused at the budget, JobCancelled, and UsageError without Redis: batches outlive a process.
    """
    waits: list[float] = []
    for config in context.config.all_teachers:
        if in_batches(config):
            ask = Asking(context, config)
            progress = run(_advance(context, ask))
            ask.tally.tell()
            _report(context, progress)
            if progress.next_poll_seconds is not None:
                waits.append(progress.next_poll_seconds)
    if context.cancelled() and not waits:
        raise JobCancelled("the batches were stopped; what they answered is kept.")
    return min(waits, default=None)


async def _advance(context: StageContext, ask: Asking) -> BatchProgress:
    if context.redis is None:
        raise UsageError(
            f"teacher {ask.teacher.name}: mode batch keeps its state in Redis; run without "
            "--local, or set teacher.mode=live."
        )
    assert isinstance(ask.teacher, Claude)
    ledger = BatchLedger(context.redis)
    job = batch_job(ask.teacher, ask.services, ledger, batch_job_id(context, ask.teacher))

    def questions() -> Iterator[Question]:
        rows = read_records(context.run.part("to_label"), Example)
        yield from questions_of(rows, ask.teacher)

    if context.cancelled():
        await cancel_batches(job)
        return await advance_batches(job, questions, submit=False)
    return await advance_batches(job, questions)


def _report(context: StageContext, progress: BatchProgress) -> None:
    rows = int(read_json(context.run.split_file)["to_label"])
    info = {"in batches": progress.in_batches, "failed": progress.failed}
    if progress.next_poll_seconds:
        info["next_look"] = int(time.time() + progress.next_poll_seconds)
    context.report(max(0, rows - progress.in_batches - progress.held), rows, "rows", info)
