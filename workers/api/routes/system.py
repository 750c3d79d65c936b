"""Health, metrics, cache, teachers and tokens."""

import shutil
from typing import Annotated

import redis
from anyio import to_thread
from fastapi import APIRouter, Path, Request, Response

from common import __version__
from common.errors import InputError
from workers.api.auth import Admin, Reader
from workers.api.models import (
    CacheStats,
    Health,
    Ready,
    TeacherList,
    TokenList,
    TokenMade,
    TokenRequest,
    TokenView,
)
from workers.api.problems import not_found, responses
from workers.api.state import Services, services_of
from workers.api.survey import cache_stats, teachers
from workers.graph import QUEUES
from workers.registry import living_workers
from workers.tokens import Scope, Token

router = APIRouter(tags=["system"])
_LEAST_DISK_BYTES = 1 << 30


@router.get("/health", response_model=Health)
async def health() -> Health:
    """The process answers. Needs no token."""
    return Health(status="ok", version=__version__)


@router.get("/ready", response_model=Ready,
            responses={503: {"description": "Not ready", "model": Ready}})  # fmt: skip
async def ready(request: Request, response: Response) -> Ready:
    """Whether jobs can be taken: Redis, a worker for each queue, disk. Needs no token."""
    checks = await to_thread.run_sync(readiness, services_of(request))
    if not all(checks.values()):
        response.status_code = 503
    return Ready(ready=all(checks.values()), checks=checks)


def readiness(services: Services) -> dict[str, bool]:
    """What must be there before a job can be taken."""
    checks = {"redis": False, **{f"queue_{queue}": False for queue in QUEUES}}
    try:
        checks["redis"] = bool(services.redis.ping())
        for worker in living_workers(services.redis):
            checks.update({f"queue_{queue}": True for queue in worker.queues})
    except redis.RedisError:
        pass
    services.settings.runs.mkdir(parents=True, exist_ok=True)
    checks["disk"] = shutil.disk_usage(services.settings.runs).free > _LEAST_DISK_BYTES
    return checks


_EXPOSITION = {
    "description": "Prometheus text",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


@router.get("/metrics", response_class=Response, responses={**responses(), 200: _EXPOSITION})
async def metrics(request: Request, token: Reader) -> Response:
    """Counters and gauges for Prometheus; give it a token of scope `read`."""
    exposition = await to_thread.run_sync(request.app.state.metrics.exposition)
    return Response(exposition, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/cache/stats", response_model=CacheStats, responses=responses())
async def read_cache_stats(request: Request, token: Reader) -> CacheStats:
    """How many answers are kept, and what all jobs asked and saved."""
    return await to_thread.run_sync(cache_stats, services_of(request))


@router.get("/v1/teachers", response_model=TeacherList, responses=responses())
async def read_teachers(request: Request, token: Reader) -> TeacherList:
    """The pace that workers share for each teacher's service, and the money spent."""
    return await to_thread.run_sync(teachers, services_of(request))


@router.get("/v1/tokens", response_model=TokenList, responses=responses())
async def list_tokens(request: Request, token: Admin) -> TokenList:
    """Every valid token, without its secret."""
    found = await to_thread.run_sync(services_of(request).tokens.all)
    return TokenList(items=[_view(token) for token in found])


@router.post("/v1/tokens", status_code=201, response_model=TokenMade, responses=responses())
async def create_token(request: Request, body: TokenRequest, token: Admin) -> TokenMade:
    """Make a token; its secret is told this once."""
    made, text = await to_thread.run_sync(
        services_of(request).tokens.create, body.name, Scope(body.scope), body.requests_per_minute
    )
    return TokenMade(**_view(made).model_dump(), token=text)


@router.delete("/v1/tokens/{token_id}", status_code=204, responses=responses(404))
async def revoke_token(
    request: Request,
    token_id: Annotated[str, Path(pattern=r"^[0-9a-f]{8}$", examples=["0a1b2c3d"])],
    token: Admin,
) -> Response:
    """End a token and its browser sessions at once."""
    try:
        await to_thread.run_sync(services_of(request).tokens.revoke, token_id)
    except InputError:
        raise not_found("token", token_id) from None
    return Response(status_code=204)


def _view(token: Token) -> TokenView:
    return TokenView(**token.model_dump(mode="json"))
