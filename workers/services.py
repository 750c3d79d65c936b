"""The composition root: the only module that reads the environment."""

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ServiceError, UsageError

if TYPE_CHECKING:
    import redis


@dataclass(frozen=True)
class Settings:
    """
    Addresses, secrets and folders of this installation.

    `redis_url` None: an embedded server is used. `visibility_seconds`: after how long an
    unacknowledged task is offered again; `lease_seconds`: how long a silent worker keeps its task.
    `threads`: how many a process computes with; `divides_cores`: nobody set them, so that they are
    all cores, which the host's workers divide among themselves (workers/computing.py).
    `store`: where hosts without a common runs folder mirror their runs, as fsspec spells it;
    `store_secret` is known only to be kept out of what is shown;
    `parent`: the process that started this worker and without which it must not go on.
    """

    redis_url: str | None
    runs: Path
    state: Path
    threads: int
    divides_cores: bool = False
    visibility_seconds: int = 20
    lease_seconds: float = 10.0
    anthropic_api_key: str | None = None
    anthropic_base_url: str | None = None
    vllm_base_url: str | None = None
    vllm_api_key: str | None = None
    store: str | None = None
    store_secret: str | None = None
    parent: int | None = None

    def __repr__(self) -> str:
        """Without secrets: settings may land in a log."""
        return f"Settings(runs={self.runs}, state={self.state}, threads={self.threads})"

    @property
    def broker_url(self) -> str:
        """The Redis address as kombu spells it."""
        return kombu_url(self.redis_url or "redis://127.0.0.1:6379/0")


def settings_from_environment() -> Settings:
    """Read REDIS_URL, FINSTILL_*, ANTHROPIC_* and VLLM_* once."""
    env = os.environ
    return Settings(
        redis_url=env.get("REDIS_URL") or None,
        runs=Path(env.get("FINSTILL_RUNS") or "runs").resolve(),
        state=Path(env.get("FINSTILL_STATE") or ".finstill").resolve(),
        threads=int(_number("FINSTILL_THREADS", 1, whole=True) or usable_cores()),
        divides_cores=not env.get("FINSTILL_THREADS"),
        visibility_seconds=int(_number("FINSTILL_VISIBILITY_SECONDS", 1, whole=True) or 20),
        lease_seconds=_number("FINSTILL_LEASE_SECONDS", 0.001) or 10.0,
        anthropic_api_key=env.get("ANTHROPIC_API_KEY") or None,
        anthropic_base_url=env.get("ANTHROPIC_BASE_URL") or None,
        vllm_base_url=env.get("VLLM_BASE_URL") or None,
        vllm_api_key=env.get("VLLM_API_KEY") or None,
        store=env.get("FINSTILL_STORE") or None,
        store_secret=env.get("AWS_SECRET_ACCESS_KEY") or None,
        parent=int(env["FINSTILL_PARENT"]) if env.get("FINSTILL_PARENT") else None,
    )


def _number(name: str, least: float, *, whole: bool = False) -> float | None:
    """A number of the environment, None where it is not set. Raises UsageError."""
    text = os.environ.get(name) or ""
    try:
        value = (int(text) if whole else float(text)) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not least <= value < math.inf:
        raise UsageError(
            f"{name}: '{text}' is no {'whole ' if whole else ''}number of at least {least:g}; set "
            "it to one, or unset it."
        )
    return value


def thread_environment(threads: int) -> dict[str, str]:
    """
    What a process that will import torch must have in its environment before it does.

    Threads that wait by spinning take the core from whoever could make progress: beside other
    busy processes a step took 4-7 times as long as with passive waiting (docs/decisions.md).
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
    }


def apply_thread_environment(settings: Settings) -> None:
    """Set it for this process, where the user has not set it."""
    for name, value in thread_environment(settings.threads).items():
        os.environ.setdefault(name, value)


def compute_with(threads: int) -> None:
    """
    Let this process and those it starts compute with so many threads from now on.

    By the environment where torch is not imported yet, otherwise by telling torch as well.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def usable_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kombu_url(redis_url: str) -> str:
    """`unix:///path?db=0` of redis-py is `redis+socket:///path?virtual_host=0` to kombu."""
    if redis_url.startswith("unix://"):
        return "redis+socket://" + redis_url.removeprefix("unix://").replace("db=", "virtual_host=")
    return redis_url


def connect(url: str) -> "redis.Redis":
    """A client that has answered a ping. Raises ServiceError with the cure."""
    import redis

    client = redis.Redis.from_url(url, health_check_interval=30)
    try:
        client.ping()
    except redis.RedisError as error:
        raise ServiceError(
            f"Redis at {_without_password(url)} does not answer ({error}); start it, correct "
            "REDIS_URL, or unset REDIS_URL to use the embedded server."
        ) from error
    except ValueError as error:
        raise ServiceError(f"REDIS_URL is not an address Redis understands: {error}.") from error
    return client


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
