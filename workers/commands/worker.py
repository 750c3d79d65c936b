"""finstill worker: one worker process."""

import click

from common.errors import ConfigError, ServiceError
from workers.commands import options
from workers.graph import QUEUES
from workers.services import settings_from_environment


@click.command(name="worker")
@click.option("--queues", default=",".join(QUEUES), show_default=True, help="What to listen to.")
@click.option(
    "--concurrency",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Processes; those that train or evaluate divide the cores unless FINSTILL_THREADS is set.",
)
@click.option(
    "--log-level", default="info", type=click.Choice(["debug", "info", "warning", "error"])
)
@options.log_format
def worker(queues: str, concurrency: int, log_level: str, log_format: str) -> None:
    """
    Listen on queues until SIGTERM; the task at hand is finished first.

    \b
    REDIS_URL=redis://redis:6379/0 finstill worker --queues label --concurrency 2
    REDIS_URL=redis://redis:6379/0 finstill worker --queues train,evaluate
    """
    wanted = [name.strip() for name in queues.split(",") if name.strip()]
    if unknown := set(wanted) - set(QUEUES):
        raise ConfigError(
            f"--queues: there is no queue {', '.join(sorted(unknown))}; choose from "
            f"{', '.join(QUEUES)}."
        )
    if not settings_from_environment().redis_url:
        raise ServiceError(
            "REDIS_URL is not set: a worker listens on a Redis that others can reach; `finstill "
            "run` starts an embedded one with workers of its own."
        )
    from workers.worker import run_worker

    run_worker(wanted, concurrency, log_level, log_format)
