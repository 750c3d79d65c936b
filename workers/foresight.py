"""Looked at before it is queued: a student's mistake must not wait for a teacher's bill."""

import socket
from typing import TYPE_CHECKING

from common.config import JobConfig, RunConfig
from common.task import load_task
from student.preflight import require_trainable
from workers.registry import living_workers

if TYPE_CHECKING:
    import redis


def require_trainable_students(config: JobConfig, until: str, *, here: bool) -> None:
    """
    Refuse a run with a student that cannot be trained.

    `here`: this host will train it, and so its folders and packages are looked for; not for labels
    alone, which may be trained on elsewhere. Raises ConfigError, InputError, MissingDependency.
    """
    if not isinstance(config, RunConfig):
        return
    task = load_task(config.task)
    for name, (student, training) in config.trained_systems.items():
        require_trainable(name, student, training, task, here and until != "label")


def trains_here(client: "redis.Redis") -> bool:
    """Whether all who would train are on this host; a container is a host of its own."""
    hosts = {w.name.rpartition(":")[0] for w in living_workers(client) if "train" in w.queues}
    return hosts == {socket.gethostname()}
