"""One delivery of one task: take the lease, do the work, record the outcome, send what is next."""

import logging
import os
import shutil
import socket
import time
from typing import Any

from common.config import RunConfig
from common.config.teacher import ClaudeTeacher
from common.errors import FinstillError, JobCancelled, JobPaused, ServiceError
from common.task import load_task
from workers.corrections import Corrections
from workers.desk import Desk
from workers.graph import Stage, fingerprint, is_done, ready_stages, stages_of, stages_until
from workers.jobs import Fault, StageRecord, State
from workers.leases import Lease
from workers.run_directory import RunDirectory, open_run, read_json
from workers.services import Settings
from workers.stages import run_stage
from workers.stages.context import StageContext

logger = logging.getLogger(__name__)

MOST_LOSSES = 5


class _CallAgain(Exception):
    """The stage waits for somebody else and wants to look again after `seconds`."""

    def __init__(self, seconds: float):
        super().__init__(seconds)
        self.seconds = seconds


def submit(desk: Desk, run: RunDirectory, config: RunConfig, until: str = "report") -> None:
    """
    Put a run on the queue up to `until`; stages whose outputs exist are taken as done.

    A run that is not at work goes by the corrections made until now.
    """
    desk.fetch(run.run_id)
    if not any(not job.ended for job in desk.jobs.many([run.run_id])):
        corrections = Corrections(desk.settings.runs / ".corrections")
        corrections.pin(run, config.task, load_task(config.task).label_names)
    desk.send_outputs(run.run_id)
    records = [
        StageRecord(
            name=stage.name,
            title=stage.title,
            state=State.DONE if is_done(run, config, stage.name) else State.WAITING,
        )
        for stage in stages_until(config, until)
    ]
    desk.jobs.submit(run.run_id, until, records)
    _forgive_batches(desk, run, config)
    advance(desk, run, config)


def _forgive_batches(desk: Desk, run: RunDirectory, config: RunConfig) -> None:
    """Questions that batches gave up on are asked again when somebody submits the job again."""
    for teacher in config.all_teachers:
        if isinstance(teacher, ClaudeTeacher) and teacher.mode == "batch":
            from teacher.batch_ledger import BatchLedger

            BatchLedger(desk.redis).forgive(f"{run.run_id}:{teacher.name or teacher.model}")


def advance(desk: Desk, run: RunDirectory, config: RunConfig) -> None:
    """
    Send every stage that can start and has not been sent.

    Sent first and recorded afterwards: a crash in between sends a task twice, which the lease
    and the fingerprint make harmless; the other order could lose one.
    """
    if desk.jobs.is_cancelled(run.run_id):
        return
    for stage in ready_stages(run, config):
        record = desk.jobs.stage(run.run_id, stage.name)
        if record and record.state is State.WAITING:
            sent = _send(desk, run, config, stage)
            desk.jobs.update(run.run_id, record.model_copy(update={"state": State.QUEUED, **sent}))


def _send(desk: Desk, run: RunDirectory, config: RunConfig, stage: Stage) -> dict[str, Any]:
    if stage.name != "label":
        desk.send(stage, run.run_id, None)
        return {}
    chunks = chunk_count(run, config)
    for index in range(chunks):
        desk.send(stage, run.run_id, index)
    return {"total": rows_to_label(run), "unit": "rows"}


def rows_to_label(run: RunDirectory) -> int:
    """How many rows the teachers are asked about."""
    return int((read_json(run.split_file) or {}).get("to_label", 0))


def chunk_count(run: RunDirectory, config: RunConfig) -> int:
    """How many labelling tasks the run has."""
    return max(1, -(-rows_to_label(run) // config.labelling.chunk_rows))


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
    run, config = open_run(desk.settings.runs, run_id)
    stage = stages_of(config)[stage_name]
    if is_done(run, config, stage_name):
        _finish(desk, run, config, stage)
        return True
    if desk.jobs.is_cancelled(run_id) and stage.verb != "batch":  # batches are paid: collect them
        _record(desk, run_id, stage, state=State.CANCELLED)
        return True
    name = f"{run_id}:{stage_name}" + ("" if chunk is None else f":{chunk}")
    with Lease(desk.redis, name, desk.settings.lease_seconds) as lease:
        if not lease.held:
            return False
        _work(desk, run, config, stage, chunk, lease)
    return True


def _work(
    desk: Desk, run: RunDirectory, config: RunConfig, stage: Stage, chunk: int | None, lease: Lease
) -> None:
    import redis

    begun = time.time()
    if not _take_over(desk, run.run_id, stage, chunk):
        return
    context = _context(desk, run, config, stage, chunk, lease)
    made_from = fingerprint(config, stage.name, run.corrections)
    try:
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


def _do(desk: Desk, context: StageContext, stage: Stage, chunk: int | None) -> bool:
    """Whether the whole stage is finished, not only this chunk of it."""
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
    _record(desk, run_id, stage, state=State.RUNNING, started_at=started, worker=worker_name())
    return True


def _context(
    desk: Desk, run: RunDirectory, config: RunConfig, stage: Stage, chunk: int | None, lease: Lease
) -> StageContext:
    def report(done: int, total: int, unit: str = "", info: dict[str, Any] | None = None) -> None:
        if chunk is None:
            _record(desk, run.run_id, stage, done=done, total=total, unit=unit, info=info or {})
        else:
            desk.jobs.count_chunk(run.run_id, chunk, {"rows": done, **(info or {})})

    return StageContext(
        settings=desk.settings,
        run=run,
        config=config,
        report=report,
        cancelled=lambda: lease.lost or desk.jobs.is_cancelled(run.run_id),
        redis=desk.redis,
    )


def _finish(desk: Desk, run: RunDirectory, config: RunConfig, stage: Stage) -> None:
    """Sent before others' are fetched: of two that finish at once, the later one sees both."""
    desk.send_outputs(run.run_id)
    desk.fetch(run.run_id)
    record = desk.jobs.stage(run.run_id, stage.name)
    if record and record.state is not State.DONE:
        whole = max(record.total, record.done)
        _record(desk, run.run_id, stage, state=State.DONE, done=whole, finished_at=time.time())
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


def free_disk_bytes(settings: Settings) -> int:
    """What is left on the disk that takes the runs."""
    settings.runs.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(settings.runs).free
