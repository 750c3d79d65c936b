"""Looks at the surroundings of an installation: nothing is changed, nothing is started for good."""

import importlib.util
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, cast

from common import __version__
from common.errors import ServiceError
from workers.embedded_redis import server_binary
from workers.graph import QUEUES
from workers.registry import living_workers
from workers.services import Settings, connect
from workers.stack import running_stack

_ENOUGH_DISK_GB = 5


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `bad` is broken; `absent` is merely not there."""

    what: str
    state: Literal["ok", "absent", "bad"]
    found: str
    advice: str = ""


def diagnose(settings: Settings) -> list[Finding]:
    """Everything `finstill doctor` prints, in order."""
    return [
        *diagnose_versions(),
        *_redis(settings),
        _key("ANTHROPIC_API_KEY", settings.anthropic_api_key, "asking Claude (live and batch)"),
        _key("VLLM_BASE_URL", settings.vllm_base_url, "asking Llama 3 through `vllm serve`"),
        _gpu(),
        _disk(settings),
    ]


def diagnose_versions() -> Iterator[Finding]:
    """The versions of finstill and of what it stands on."""
    yield Finding("finstill", "ok", f"{__version__}, Python {platform.python_version()}")
    for package in ("torch", "transformers", "celery", "anthropic", "bitsandbytes"):
        try:
            yield Finding(package, "ok", version(package))
        except PackageNotFoundError:
            yield Finding(package, "bad", "not installed", "run `make setup`")
    if importlib.util.find_spec("vllm") is None:
        advice = "offline labelling on a GPU worker, in an environment of its own"
        yield Finding("vllm", "absent", "not installed", advice)


def _redis(settings: Settings) -> Iterator[Finding]:
    url = settings.redis_url or running_stack(settings)
    if url is None:
        try:
            yield Finding("Redis", "ok", f"embedded, started on demand: {server_binary().name}")
        except ServiceError as error:
            yield Finding("Redis", "bad", "none", str(error))
        return
    try:
        client = connect(url)
    except ServiceError as error:
        yield Finding("Redis", "bad", "no answer", str(error))
        return
    info = cast("dict[str, object]", client.info())
    where = "embedded, running" if settings.redis_url is None else "REDIS_URL"
    yield Finding("Redis", "ok", f"{where}, version {info['redis_version']}")
    yield _persistence(info)
    yield _eviction(str(info.get("maxmemory_policy", "unknown")))
    heard = {queue for worker in living_workers(client) for queue in worker.queues}
    for queue in QUEUES:
        if queue in heard:
            yield Finding(f"queue {queue}", "ok", "a worker listens")
        else:
            yield Finding(
                f"queue {queue}", "absent", "no worker", f"finstill worker --queues {queue}"
            )
    client.close()


def _persistence(info: dict[str, object]) -> Finding:
    if info.get("aof_enabled"):
        return Finding("persistence", "ok", "append-only file")
    advice = "paid answers would be lost with the server: set `appendonly yes`"
    return Finding("persistence", "bad", "no append-only file", advice)


def _eviction(policy: str) -> Finding:
    if policy == "noeviction":
        return Finding("eviction", "ok", policy)
    advice = "paid answers may be thrown away: set `maxmemory-policy noeviction`"
    return Finding("eviction", "bad", policy, advice)


def _key(variable: str, value: str | None, allows: str) -> Finding:
    if value:
        return Finding(variable, "ok", "set")
    return Finding(variable, "absent", "not set", allows)


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Finding("GPU", "ok", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GB")
    return Finding("GPU", "absent", "none", "training Flan-T5 base and larger, Llama in 4 bits")


def _disk(settings: Settings) -> Finding:
    folder = settings.runs if settings.runs.exists() else settings.runs.parent
    free = shutil.disk_usage(folder).free / 2**30
    if free < _ENOUGH_DISK_GB:
        return Finding("disk", "bad", f"{free:.1f} GB free", "checkpoints need some gigabytes")
    return Finding("disk", "ok", f"{free:.0f} GB free at {folder}")
