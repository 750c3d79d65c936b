"""One delivery of one task: take the lease, do the work, record the outcome, send what is next."""

import logging
import os
import socket
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from common.config import ComparisonConfig, JobConfig, RunConfig
from common.errors import FinstillError, JobCancelled, JobPaused, ServiceError, StudentBusy
from workers.computing import device_for_training, forget_threads, keep_threads, threads_of
from workers.desk import Desk
from workers.graph import Stage, is_done, stages_of, wanted_fingerprints
from workers.job_records import NOTE, REASONS, WAITS, Fault, StageRecord, State
from workers.leases import Lease
from workers.orphans import Parent
from workers.registry import computes
from workers.run_directory import RunDirectory, open_job
from workers.services import compute_with
from workers.stages import run_stage
from workers.stages.context import Report, StageContext
from workers.submitting import advance, chunk_count, fetch_compared

logger = logging.getLogger(__name__)

MOST_LOSSES = 5
SOON_SECONDS = 2.0


class _CallAgain(Exception):
    """The stage waits for somebody else and wants to look again after `seconds`."""

    def __init__(self, seconds: float):
        super().__init__(seconds)
        self.seconds = seconds


def execute(desk: Desk, run_id: str, stage_name: str, chunk: int | None = None) -> bool:
    """
    Do a task that was delivered. False: another worker is at it, offer the task again later.

    A failure is recorded in the job, never raised: the broker has nothing to do with it.
    """
    try:
        return _execute(desk, run_id, stage_name, chunk)
    except ServiceError as error:  # the store of runs
        stage = Stage(stage_name, "label", (), stage_name)
        _fail(desk, run_id, stage, error, State.FAILED)
        return True


def _execute(desk: Desk, run_id: str, stage_name: str, chunk: int | None) -> bool:
    desk.fetch(run_id)
    run, config = open_job(desk.settings.runs, run_id)
    fetch_compared(desk, config)
    stage = stages_of(config)[stage_name]
    if is_done(run, config, stage_name):
        _finish(desk, run, config, stage)
        return True
    if desk.jobs.is_cancelled(run_id) and stage.verb != "batch":  # batches are paid: collect them
        _record(desk, run_id, stage, state=State.CANCELLED, info={})
        return True
    name = f"{run_id}:{stage_name}" + ("" if chunk is None else f":{chunk}")
    with Lease(desk.redis, name, desk.settings.lease_seconds) as lease:
        return lease.held and _with_cores(desk, run, config, stage, chunk, lease)


def _with_cores(
    desk: Desk, run: RunDirectory, config: JobConfig, stage: Stage, chunk: int | None, lease: Lease
) -> bool:
    """
    Work on this task's share of the host.

    False while a training's device is taken, and where the lease was lost on the way to it: to ask
    for the device imports torch, which takes a cold disk tens of seconds.
    """
    if not computes([stage.queue]):
        _work(desk, run, config, stage, chunk, lease)
        return True
    threads = threads_of(desk.redis, desk.settings, run.run_id, stage.name)
    desk = replace(desk, settings=replace(desk.settings, threads=threads))
    with _device(desk, config, stage) as wait:
        if wait:
            _say_waiting(desk, run.run_id, stage, wait)
            return False
        if not lease.renew():
            return False
        if stage.verb == "train" and desk.settings.divides_cores:
            keep_threads(desk.redis, run.run_id, stage.name, threads)
        compute_with(threads)
        _work(desk, run, config, stage, chunk, lease)
    return True


def _device(desk: Desk, config: JobConfig, stage: Stage) -> AbstractContextManager[str | None]:
    if stage.verb != "train" or isinstance(config, ComparisonConfig):
        return nullcontext()
    _, training = config.trained_systems[stage.system]
    return device_for_training(desk.settings, training.devices)


def _say_waiting(desk: Desk, run_id: str, stage: Stage, what: str) -> None:
    """A lost worker's training stays `running`: begun anew, it is counted as lost."""
    record = desk.jobs.stage(run_id, stage.name) or StageRecord(name=stage.name, title=stage.title)
    if record.info.get(WAITS) != what:
        logger.info("%s of %s waits %s", stage.name, run_id, what)
        state = State.RUNNING if record.state is State.RUNNING else State.QUEUED
        _record(desk, run_id, stage, state=state, info={**record.info, WAITS: what})


def _work(
    desk: Desk, run: RunDirectory, config: JobConfig, stage: Stage, chunk: int | None, lease: Lease
) -> None:
    import redis

    begun = time.time()
    if not _take_over(desk, run.run_id, stage, chunk):
        return
    made_from = wanted_fingerprints(run, config)[stage.name]
    report = _report(desk, run, stage, chunk)
    try:
        if isinstance(config, ComparisonConfig):
            finished = _compare(desk, run, config, report)
        else:
            context = _context(desk, run, config, report, lease)
            finished = _do(desk, context, stage, chunk)
    except _CallAgain as wait:
        _look_again(desk, run.run_id, stage, wait.seconds)
        return
    except JobCancelled:
        if not lease.lost:
            _record(desk, run.run_id, stage, state=State.CANCELLED, finished_at=time.time())
        return
    except JobPaused as pause:
        _fail(desk, run.run_id, stage, pause, State.PAUSED)
        return
    except FinstillError as error:
        _fail(desk, run.run_id, stage, error, State.FAILED)
        return
    except (redis.ConnectionError, redis.TimeoutError):
        raise  # no failure of the stage: whoever delivered it waits and comes again
    except Exception as error:
        logger.exception("%s of %s failed", stage.name, run.run_id)
        _fail(desk, run.run_id, stage, error, State.FAILED)
        return
    if finished and not lease.lost:
        run.mark_done(stage.name, made_from, time.time() - begun)
        _finish(desk, run, config, stage)


def _compare(desk: Desk, run: RunDirectory, config: ComparisonConfig, report: Report) -> bool:
    from workers.stages.comparison import compare_as_asked

    compare_as_asked(run, config, report, lambda: desk.jobs.is_cancelled(run.run_id))
    return True


def _do(desk: Desk, context: StageContext, stage: Stage, chunk: int | None) -> bool:
    """Whether the whole stage is finished, not only this chunk of it."""
    if stage.verb == "train":
        return _train(desk, context, stage)
    if chunk is None:
        again = run_stage(context, stage)
        if again is not None:
            raise _CallAgain(again)
        return True
    from workers.stages.labels import all_chunks_done, label_chunk

    label_chunk(context, chunk)
    run = context.run
    desk.send_outputs(run.run_id)
    if desk.jobs.finish_chunk(run.run_id, chunk) < chunk_count(run, context.config):
        return False
    desk.fetch(run.run_id)
    return all_chunks_done(context)


def _train(desk: Desk, context: StageContext, stage: Stage) -> bool:
    """
    Whether it is finished. It is handed back, to be called again, by a worker that is left alone or
    while a process without a lease, a local run or one that is dying, trains in the same folder.
    """
    parent = Parent()
    desk.fetch_checkpoints(context.run, stage.system)
    stops = replace(context, cancelled=lambda: parent.gone() or context.cancelled())
    try:
        run_stage(stops, stage)
    except StudentBusy as busy:
        logger.warning("%s of %s waits: %s", stage.name, context.run.run_id, busy)
        _record(desk, context.run.run_id, stage, info={NOTE: str(busy)})
        raise _CallAgain(SOON_SECONDS) from busy
    except JobCancelled as stopped:
        if context.cancelled():
            raise
        logger.warning("%s of %s is handed back: %s", stage.name, context.run.run_id, stopped)
        raise _CallAgain(SOON_SECONDS) from stopped
    return True


def _look_again(desk: Desk, run_id: str, stage: Stage, seconds: float) -> None:
    """
    Send the task once more, at most half a visibility timeout ahead.

    A delayed task lies unacknowledged in a worker and is offered again after the visibility
    timeout; the key sees to it that of several copies one alone has a successor.
    """
    delay = min(seconds, desk.settings.visibility_seconds / 2)
    _record(desk, run_id, stage, state=State.QUEUED)
    key = f"finstill:job:{run_id}:again:{stage.name}"
    if desk.redis.set(key, "1", nx=True, px=int(delay * 900)):
        desk.send(stage, run_id, None, delay)


def _take_over(desk: Desk, run_id: str, stage: Stage, chunk: int | None) -> bool:
    """Record the start; give up on a task that keeps killing its workers."""
    record = desk.jobs.stage(run_id, stage.name) or StageRecord(name=stage.name, title=stage.title)
    if record.state is State.RUNNING and chunk is None:
        losses = desk.jobs.count_loss(run_id, stage.name, record.done)
        if losses > MOST_LOSSES:
            error = FinstillError(
                f"{stage.title}: {losses} workers were lost at the same point; see the worker's "
                "log (out of memory?), then `finstill jobs resume`."
            )
            _fail(desk, run_id, stage, error, State.FAILED)
            return False
    started = record.started_at or time.time()
    info = {name: value for name, value in record.info.items() if name not in REASONS}
    _record(
        desk, run_id, stage,
        state=State.RUNNING, started_at=started, worker=worker_name(), info=info,
    )  # fmt: skip
    return True


def _report(desk: Desk, run: RunDirectory, stage: Stage, chunk: int | None) -> Report:
    def report(done: int, total: int, unit: str = "", info: dict[str, Any] | None = None) -> None:
        if chunk is None:
            _record(desk, run.run_id, stage, done=done, total=total, unit=unit, info=info or {})
        else:
            desk.jobs.count_chunk(run.run_id, chunk, {"rows": done, **(info or {})})

    return report


def _context(
    desk: Desk, run: RunDirectory, config: RunConfig, report: Report, lease: Lease
) -> StageContext:
    return StageContext(
        settings=desk.settings,
        run=run,
        config=config,
        report=report,
        cancelled=lambda: lease.lost or desk.jobs.is_cancelled(run.run_id),
        redis=desk.redis,
        count=desk.jobs.add_to_totals,
        checkpoint_written=partial(desk.send_checkpoints, run),
    )


def _finish(desk: Desk, run: RunDirectory, config: JobConfig, stage: Stage) -> None:
    """Sent before others' are fetched: of two that finish at once, the later one sees both."""
    desk.send_outputs(run.run_id)
    if stage.verb == "train":
        desk.drop_checkpoints(run, stage.system)
        forget_threads(desk.redis, run.run_id, stage.name)
    desk.fetch(run.run_id)
    record = desk.jobs.stage(run.run_id, stage.name)
    if record and record.state is not State.DONE:
        done, now = record.whole, time.time()
        _record(desk, run.run_id, stage, state=State.DONE, done=done, finished_at=now)
    advance(desk, run, config)


def _fail(desk: Desk, run_id: str, stage: Stage, error: Exception, state: State) -> None:
    expected = isinstance(error, FinstillError)
    message = str(error) if expected else f"{type(error).__name__}: {error}"
    code = error.exit_code if isinstance(error, FinstillError) else 1
    fault = Fault(kind=type(error).__name__, message=message, exit_code=code)
    _record(desk, run_id, stage, state=state, fault=fault, finished_at=time.time())
    desk.jobs.end(run_id, state, fault)


def _record(desk: Desk, run_id: str, stage: Stage, **changes: Any) -> None:
    record = desk.jobs.stage(run_id, stage.name) or StageRecord(name=stage.name, title=stage.title)
    desk.jobs.update(run_id, record.model_copy(update=changes))


def worker_name() -> str:
    """Host and process of this worker."""
    return f"{socket.gethostname()}:{os.getpid()}"
