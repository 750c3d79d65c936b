"""Where a worker works: settings, Redis, the store of runs, and how it sends a task."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from workers.graph import Stage
from workers.jobs import Jobs
from workers.services import Settings
from workers.store import store_of

if TYPE_CHECKING:
    import redis


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

    def send_outputs(self, run_id: str) -> None:
        """Let other hosts have what was finished here. Raises ServiceError."""
        if store := store_of(self.settings):
            store.send(run_id)
