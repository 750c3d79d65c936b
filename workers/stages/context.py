"""What a stage is given: the run, its configuration, and a way to report and to be stopped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from common.config import RunConfig
from common.task import TaskDefinition, load_task
from workers.run_directory import RunDirectory
from workers.services import Settings

if TYPE_CHECKING:
    import redis


class Report(Protocol):
    """Says how far a stage is: `done` of `total` in `unit`s, with figures worth showing."""

    def __call__(
        self, done: int, total: int, unit: str = "", info: dict[str, Any] | None = None
    ) -> None: ...


@dataclass(frozen=True)
class StageContext:
    """
    The surroundings of one stage. `redis` None: everything happens in this process.

    `cancelled` is asked at every safe point; a stage that sees True raises JobCancelled.
    `count` adds to the totals of all jobs. `checkpoint_written` is told of a system whose training
    has written or removed a checkpoint.
    """

    settings: Settings
    run: RunDirectory
    config: RunConfig
    report: Report
    cancelled: Callable[[], bool]
    redis: "redis.Redis | None" = None
    accept_volatile_cache: bool = False
    count: Callable[[Mapping[str, float]], None] = lambda news: None
    checkpoint_written: Callable[[str], None] = lambda system: None

    @property
    def task(self) -> TaskDefinition:
        """The definition of the run's task."""
        return load_task(self.config.task)
