"""Submitting, stopping and resuming, as the API and the dashboard both do it."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.config import JobConfig, RunConfig, validate_config
from common.errors import FinstillError
from teacher.budget import RedisPurse, raise_budget
from workers.api.idempotency import once
from workers.api.models import JobRequest
from workers.api.problems import Problem, not_found
from workers.api.state import Services
from workers.api.submission import inline, named
from workers.foresight import require_trainable_students, trains_here
from workers.graph import QUEUES
from workers.job_records import Job, State
from workers.registry import require_workers
from workers.run_directory import RunDirectory, create_run, open_job, read_json
from workers.submitting import advance, submit
from workers.tokens import Scope, Token

logger = logging.getLogger(__name__)

_LOCK_SECONDS = 30
_MOST_LOOKED_AT = 500


def take(
    services: Services, request: JobRequest, token: Token, key: str | None = None
) -> tuple[Job, bool]:
    """
    The job for a request and whether it was queued now. Blocking.

    The same config is the same run: while it runs, asking again changes nothing.
    """

    queued = False

    def work() -> str:
        nonlocal queued
        config = resolve(services, request)
        here = trains_here(services.redis)
        require_trainable_students(config, request.kind, here=here)
        run = create_run(services.settings.runs, config)
        queued = _queue(services, run, config, request.kind)
        return run.run_id

    job_id = once(services.redis, token.id, key, request.model_dump(mode="json"), work)
    return job(services, job_id), queued


def resolve(services: Services, request: JobRequest) -> JobConfig:
    """The config a request asks for. Raises ConfigError, InputError, Problem 422."""
    if request.compare is not None:
        for name in request.compare.runs:
            if not RunDirectory(services.settings.runs / name).config_file.is_file():
                raise Problem(422, f"compare: there is no run {name} here.")
        return request.compare
    if request.config is not None:
        return named(request.config, request.overrides)
    return inline(request.inline or {}, services.datasets)


def job(services: Services, job_id: str) -> Job:
    """One job by its whole id. Raises Problem 404."""
    found = services.jobs.many([job_id])
    if not found:
        raise not_found("job", job_id)
    return found[0]


def cancel(services: Services, job_id: str) -> Job:
    """Ask a job to stop. Raises Problem 404, and 409 when it ended or was asked before."""
    found = job(services, job_id)
    if found.ended:
        raise Problem(409, f"job {job_id} is {found.state} already.", slug="ended")
    if not services.jobs.cancel(job_id):
        raise Problem(409, f"job {job_id} was asked to stop already.", slug="stopping")
    return job(services, job_id)


def resume(services: Services, job_id: str, max_usd: float | None = None) -> Job:
    """
    Go on with a job that stopped, with another budget where one is given.

    Raises Problem 404, 409 where nothing stopped, 422 where the job has no budget to change.
    """
    found = job(services, job_id)
    if found.state is State.DONE or not (found.ended or _unsent(found)):
        raise Problem(409, f"job {job_id} is {found.state}; only a stopped one can be resumed.")
    run, config = job_of(services, job_id)
    if max_usd is not None:
        if not isinstance(config, RunConfig) or config.labelling.max_usd is None:
            raise Problem(422, f"job {job_id} has no budget that could be changed.")
        raise_budget(services.redis, job_id, max_usd)
    _queue(services, run, config, found.kind)
    return job(services, job_id)


def require_budget_scope(token: Token) -> None:
    """Raises Problem 403 for a token that may not change budgets."""
    if not token.scope.allows(Scope.ADMIN):
        raise Problem(403, "to change a budget needs the scope 'admin'.")


def budget_of(services: Services, job_id: str, config: RunConfig) -> float | None:
    """The dollars a job may spend: its config's, or what it was raised to since."""
    return RedisPurse(services.redis, job_id, config.labelling.max_usd).max_usd


def job_of(services: Services, job_id: str) -> tuple[RunDirectory, JobConfig]:
    """As `run_of`; of a comparison as well. Raises InputError for a damaged one."""
    if RunDirectory(services.settings.runs / job_id).comparison_file.is_file():
        return open_job(services.settings.runs, job_id)
    return run_of(services, job_id)


def folder_of(services: Services, job_id: str) -> RunDirectory:
    """Where a run or a comparison keeps its report. Raises Problem 404."""
    folder = RunDirectory(services.settings.runs / job_id)
    if not folder.exists():
        raise not_found("run", job_id)
    return folder


def run_of(services: Services, run_id: str) -> tuple[RunDirectory, RunConfig]:
    """A run by its whole id, whose form the route has checked. Raises Problem 404."""
    run = RunDirectory(services.settings.runs / run_id)
    try:
        stamp = run.config_file.stat().st_mtime_ns
    except OSError:
        raise not_found("run", run_id) from None
    return run, _config(run.config_file, stamp)


@lru_cache(maxsize=512)
def _config(file: Path, stamp: int) -> RunConfig:
    """Read and checked once for each version of the file: predictions ask for it every time."""
    tree: Mapping[str, Any] | None = read_json(file)
    if tree is None:
        raise not_found("run", file.parent.name)
    return validate_config(tree, "of the run")


def send_unsent(services: Services) -> int:
    """
    Send what a server recorded that was killed before it could send it; how many jobs.

    Sending what somebody else is about to send too is harmless: see `advance`.
    """
    found = [one for one in services.jobs.all(_MOST_LOOKED_AT) if not one.ended and _unsent(one)]
    for one in found:
        try:
            run, config = job_of(services, one.id)
            with services.desk() as desk:
                advance(desk, run, config)
        except (Problem, FinstillError) as error:
            logger.warning("job %s cannot be sent: %s", one.id, error)
    return len(found)


def _unsent(found: Job) -> bool:
    return not any(stage.state in (State.QUEUED, State.RUNNING) for stage in found.stages)


def _queue(services: Services, run: RunDirectory, config: JobConfig, until: str) -> bool:
    """Queue the run; False when it runs already, or is done as far as asked."""
    require_workers(services.redis, set(QUEUES), or_lately=True)
    with _alone(services, run.run_id):
        running = services.jobs.many([run.run_id])
        if running and not running[0].ended:
            if running[0].kind != until:
                raise Problem(
                    409, f"job {run.run_id} runs until '{running[0].kind}'; cancel it first."
                )
            if not _unsent(running[0]):
                return False
        with services.desk() as desk:
            submit(desk, run, config, until)
    return not services.jobs.many([run.run_id])[0].ended


@contextmanager
def _alone(services: Services, run_id: str) -> Iterator[None]:
    lock = services.redis.lock(f"finstill:submitting:{run_id}", timeout=_LOCK_SECONDS)
    if not lock.acquire(blocking_timeout=5):
        raise Problem(409, f"job {run_id} is being submitted by somebody else.")
    try:
        yield
    finally:
        lock.release()
