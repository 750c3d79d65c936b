"""Where a worker works: settings, Redis, the store of runs, and how it sends a task."""

import logging
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from common.errors import ServiceError
from workers.graph import Stage
from workers.jobs import Jobs
from workers.run_directory import RunDirectory
from workers.services import Settings
from workers.store import store_of
from workers.store_checkpoints import drop_checkpoints, fetch_checkpoints, send_checkpoints

if TYPE_CHECKING:
    import redis


logger = logging.getLogger(__name__)


class Send(Protocol):
    """Puts a task on its queue, to be delivered after `countdown` seconds at the earliest."""

    def __call__(
        self, stage: Stage, run_id: str, chunk: int | None, countdown: float = 0.0
    ) -> None: ...


@dataclass(frozen=True)
class Desk:
    """Where a worker works: settings, Redis, and how it sends a task (stage, run id, chunk)."""

    settings: Settings
    redis: "redis.Redis"
    send: Send

    @property
    def jobs(self) -> Jobs:
        """The job records."""
        return Jobs(self.redis)

    def fetch(self, run_id: str) -> None:
        """Bring what other hosts finished of a run. Raises ServiceError."""
        if store := store_of(self.settings):
            store.fetch(run_id)

    def fetch_checkpoints(self, run: RunDirectory, system: str) -> None:
        """Bring the checkpoints of a training that another host began. Raises ServiceError."""
        if store := store_of(self.settings):
            fetch_checkpoints(store, run.run_id, system, run.checkpoints(system))

    def send_checkpoints(self, run: RunDirectory, system: str) -> None:
        """
        Let other hosts have a training's checkpoints.

        A store that does not answer is no reason to stop a training: it is logged, and the next
        checkpoint tries again.
        """
        if store := store_of(self.settings):
            try:
                send_checkpoints(store, run.run_id, system, run.checkpoints(system))
            except ServiceError as error:
                logger.warning("checkpoints of %s stay on this host: %s", run.run_id, error)

    def drop_checkpoints(self, run: RunDirectory, system: str) -> None:
        """Of a training whose model is in the store, here and there. Raises ServiceError."""
        shutil.rmtree(run.checkpoints(system), ignore_errors=True)
        if store := store_of(self.settings):
            drop_checkpoints(store, run.run_id, system)

    def send_outputs(self, run_id: str) -> None:
        """Let other hosts have what was finished here. Raises ServiceError."""
        if store := store_of(self.settings):
            store.send(run_id)
