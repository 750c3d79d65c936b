"""The client's side of the queue: reach Redis, submit a run, follow it to its end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from common.config import JobConfig
from common.errors import FinstillError, ServiceError
from workers.foresight import require_trainable_students, trains_here
from workers.graph import QUEUES
from workers.job_records import Job, State
from workers.jobs import Jobs
from workers.ownership import is_owned
from workers.registry import require_workers
from workers.run_directory import RunDirectory, create_run
from workers.services import Settings, connect
from workers.stack import ensure_stack, running_stack, stop_stack
from workers.store import store_of

if TYPE_CHECKING:
    import redis

    from workers.desk import Desk

LOOK_SECONDS = 10.0


class Client:
    """
    Submits runs and reads job records.

    With REDIS_URL the queue is the one named there; otherwise the embedded stack of the state
    folder is started on first use and stopped by `close` when no job is left.
    """

    def __init__(self, settings: Settings):
        self.embedded = settings.redis_url is None
        url = settings.redis_url or ensure_stack(settings)
        self.settings = replace(settings, redis_url=url)
        self.redis: redis.Redis = connect(url)
        self.jobs = Jobs(self.redis)
        self._closing: list[Callable[[], None]] = []

    def submit(self, config: JobConfig, until: str = "report") -> RunDirectory:
        """
        Queue a run up to the stages of kind `until` (label, train, evaluate, report), or a
        comparison.

        The same config is the same run: what it finished before is not done again.
        Raises ServiceError when a queue has no worker, UsageError for a student that cannot be
        trained.
        """
        from workers.submitting import submit

        if not self.embedded:
            require_workers(self.redis, set(QUEUES))
        self.look_ahead(config, until)
        run = create_run(self.settings.runs, config)
        submit(self._desk, run, config, until)
        return run

    def look_ahead(self, config: JobConfig, until: str = "report") -> None:
        """Raises UsageError for a run with a student that cannot be trained."""
        here = self.embedded or trains_here(self.redis)
        require_trainable_students(config, until, here=here)

    def follow(self, job_id: str, show: Callable[[Job], None], poll_seconds: float = 0.25) -> Job:
        """
        Call `show` with every change of the job until it ends.

        An embedded stack that was killed is started again: nobody else would.
        """
        last: Job | None = None
        looked_at = time.monotonic()
        while True:
            if self.embedded and time.monotonic() - looked_at > LOOK_SECONDS:
                looked_at = time.monotonic()
                if not is_owned(self.settings):
                    ensure_stack(self.settings)
            job = self._look(job_id)
            if job != last:
                show(job)
                last = job
            if job.ended:
                if store := store_of(self.settings):
                    store.fetch(job_id)
                return job
            time.sleep(poll_seconds)

    def _look(self, job_id: str) -> Job:
        import redis

        try:
            return self.jobs.with_pace(self.jobs.get(job_id))
        except redis.ConnectionError:
            if not self.embedded:
                raise
            ensure_stack(self.settings)
            return self.jobs.with_pace(self.jobs.get(job_id))

    def close(self) -> None:
        """Stop the embedded stack unless another job needs it."""
        busy = any(not job.ended for job in self.jobs.all())
        for release in self._closing:
            release()
        self.redis.close()
        if self.embedded and not busy:
            stop_stack(self.settings)

    @cached_property
    def _desk(self) -> "Desk":
        from workers.celery_app import app
        from workers.desk import Desk
        from workers.tasks import send

        connection = app.connection_for_write(self.settings.broker_url)
        self._closing.append(connection.release)
        return Desk(self.settings, self.redis, partial(send, connection=connection))


@contextmanager
def job_records(settings: Settings) -> Iterator[Jobs]:
    """
    The job records, without starting workers.

    Raises ServiceError when there is no Redis to look into.
    """
    url = settings.redis_url or running_stack(settings)
    if url is None:
        raise ServiceError(
            "no job is active: REDIS_URL is not set and no embedded stack runs for "
            f"{settings.state}; finished runs lie under {settings.runs}."
        )
    client = connect(url)
    try:
        yield Jobs(client)
    finally:
        client.close()


def raise_for(job: Job) -> None:
    """Turn a job that did not end well into the error that stopped it."""
    if job.state is State.DONE:
        return
    error = FinstillError(job.fault.message if job.fault else f"job {job.id} is {job.state}.")
    error.exit_code = job.fault.exit_code if job.fault else 1
    raise error
