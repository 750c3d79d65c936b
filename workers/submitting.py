"""Putting jobs on the queue: what is done already is told apart, what can start is sent."""

from common.config import ComparisonConfig, JobConfig, RunConfig
from common.config.teacher import ClaudeTeacher
from common.task import load_task
from workers.corrections import Corrections
from workers.desk import Desk
from workers.graph import Stage, is_done, ready_stages, stages_until
from workers.job_records import StageRecord, State
from workers.run_directory import RunDirectory, read_json


def submit(desk: Desk, run: RunDirectory, config: JobConfig, until: str = "report") -> None:
    """
    Put a run on the queue up to `until`, or a comparison; stages whose outputs exist are taken as
    done.

    A run that is not at work goes by the corrections made until now.
    """
    desk.fetch(run.run_id)
    fetch_compared(desk, config)
    if isinstance(config, RunConfig):
        _pin_corrections(desk, run, config)
        _forgive_batches(desk, run, config)
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
    advance(desk, run, config)


def fetch_compared(desk: Desk, config: JobConfig) -> None:
    """What other hosts finished of the runs that a comparison reads. Raises ServiceError."""
    for name in config.runs if isinstance(config, ComparisonConfig) else ():
        desk.fetch(name)


def _pin_corrections(desk: Desk, run: RunDirectory, config: RunConfig) -> None:
    if not any(not job.ended for job in desk.jobs.many([run.run_id])):
        corrections = Corrections(desk.settings.runs / ".corrections")
        corrections.pin(run, config.task, load_task(config.task).label_names)


def _forgive_batches(desk: Desk, run: RunDirectory, config: RunConfig) -> None:
    """Questions that batches gave up on are asked again when somebody submits the job again."""
    for teacher in config.all_teachers:
        if isinstance(teacher, ClaudeTeacher) and teacher.mode == "batch":
            from teacher.batch_ledger import BatchLedger

            BatchLedger(desk.redis).forgive(f"{run.run_id}:{teacher.name or teacher.model}")


def advance(desk: Desk, run: RunDirectory, config: JobConfig) -> None:
    """
    Send every stage that can start and has not been sent.

    Sent first and recorded afterwards: a crash in between sends a task twice, which the lease
    and the fingerprint make harmless; the other order could lose one. By then a worker may be
    done with it, so only a stage that still waits is recorded as queued.
    """
    if desk.jobs.is_cancelled(run.run_id):
        return
    for stage in ready_stages(run, config):
        record = desk.jobs.stage(run.run_id, stage.name)
        if record and record.state is State.WAITING:
            _send(desk, run, config, stage)
            desk.jobs.change_waiting(run.run_id, stage.name, state=State.QUEUED)


def _send(desk: Desk, run: RunDirectory, config: JobConfig, stage: Stage) -> None:
    if stage.name != "label" or isinstance(config, ComparisonConfig):
        desk.send(stage, run.run_id, None)
        return
    rows = rows_to_label(run)
    desk.jobs.change_waiting(run.run_id, stage.name, total=rows, unit="rows")
    for index in range(chunk_count(run, config)):
        desk.send(stage, run.run_id, index)


def rows_to_label(run: RunDirectory) -> int:
    """How many rows the teachers are asked about."""
    return int((read_json(run.split_file) or {}).get("to_label", 0))


def chunk_count(run: RunDirectory, config: RunConfig) -> int:
    """How many labelling tasks the run has."""
    return max(1, -(-rows_to_label(run) // config.labelling.chunk_rows))
