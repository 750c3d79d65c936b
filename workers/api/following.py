"""With a store, what other hosts finished of a run is fetched while the job goes on."""

import logging
import threading
from typing import TYPE_CHECKING

import redis

from common.errors import ServiceError
from workers.job_records import Job, State
from workers.run_directory import RunDirectory
from workers.store import RunStore, store_of

if TYPE_CHECKING:
    from workers.api.state import Services

logger = logging.getLogger(__name__)

LOOK_SECONDS = 3.0
_JOBS = 100


class Follower:
    """Fetches a run whenever one more of its stages has ended; does nothing without a store."""

    def __init__(self, services: "Services", stopping: threading.Event):
        self._services, self._stopping = services, stopping
        self._seen: dict[str, int] = {}

    def start(self) -> None:
        """Look from a thread until the server stops."""
        if store := store_of(self._services.settings):
            threading.Thread(target=self._follow, args=(store,), daemon=True).start()

    def _follow(self, store: RunStore) -> None:
        missing = True
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                if missing:
                    self._fetch_missing(store)
                    missing = False
                self.look(store)
            except (ServiceError, redis.RedisError) as error:
                logger.warning("runs of other hosts are not fetched: %s", error)

    def _fetch_missing(self, store: RunStore) -> None:
        """Runs of before this server's time, which no job may be on record for."""
        for run_id in store.runs():
            if not RunDirectory(self._services.settings.runs / run_id).exists():
                store.fetch(run_id)

    def look(self, store: RunStore) -> None:
        """Fetch what changed since the last look."""
        for job in self._services.jobs.all(_JOBS):
            if self._seen.get(job.id, 0) != (ended := _ended(job)):
                store.fetch(job.id)
                self._seen[job.id] = ended


def _ended(job: Job) -> int:
    return sum(stage.state is State.DONE for stage in job.stages)
