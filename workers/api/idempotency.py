"""`Idempotency-Key`: the same request twice has one effect, and another body under it none."""

import json
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

from workers.api.problems import Problem

if TYPE_CHECKING:
    import redis

LIFE_SECONDS = 24 * 3600
_PENDING_SECONDS = 20  # a server killed meanwhile must not keep its clients out for longer


def once(
    client: "redis.Redis", owner: str, key: str | None, body: Any, work: Callable[[], str]
) -> str:
    """
    The job id `work` returns, or returned for this key before.

    Raises Problem 409 while the first request is being served, 422 for another body.
    """
    if key is None:
        return work()
    name = "finstill:idempotency:" + sha256(f"{owner}\0{key}".encode()).hexdigest()
    digest = sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    while not client.set(name, json.dumps({"body": digest}), nx=True, ex=_PENDING_SECONDS):
        # gone between the two looks: the first request failed, or its server was killed long ago
        if kept := cast("bytes | None", client.get(name)):
            return _earlier(json.loads(kept), digest)
    try:
        job_id = work()
    except BaseException:
        client.delete(name)
        raise
    client.set(name, json.dumps({"body": digest, "job": job_id}), ex=LIFE_SECONDS)
    return job_id


def _earlier(kept: dict[str, Any], digest: str) -> str:
    if kept.get("body") != digest:
        raise Problem(
            422, "this Idempotency-Key was used with another body; take a new key.",
            slug="idempotency-key",
        )  # fmt: skip
    if "job" not in kept:
        raise Problem(
            409, "the first request with this Idempotency-Key is still being served.",
            slug="idempotency-key", headers={"Retry-After": "1"},
        )  # fmt: skip
    return str(kept["job"])
