"""The application: routes, guard, problems, and what is opened and closed with it."""

import logging
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from redis.exceptions import RedisError

from common import __version__
from workers.api import jobs_desk, problems
from workers.api.following import Follower
from workers.api.guard import Guard
from workers.api.metrics import Metrics
from workers.api.routes import datasets, jobs, runs, system
from workers.api.snapshots import Snapshots
from workers.api.state import Options, Services
from workers.services import Settings
from workers.web import comparisons, faults, pages, results

logger = logging.getLogger("finstill.http")

ABOUT = """Distil a large model's labels and rationales into a small one.

Send `Authorization: Bearer TOKEN`. Errors are RFC 9457 problem details. Lists go on with
`cursor`."""


def create_app(settings: Settings, options: Options | None = None) -> FastAPI:
    """
    The service for one installation. Raises ServiceError when its Redis does not answer.

    The interactive documentation of FastAPI is off: it loads scripts from elsewhere.
    """
    services = Services(settings, options or Options())

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        try:
            await to_thread.run_sync(jobs_desk.send_unsent, services)
        except RedisError as error:
            logger.warning("jobs that a killed server left unsent were not looked for: %s", error)
        Follower(services, app.state.stopping).start()
        yield
        app.state.stopping.set()
        await services.close()

    app = FastAPI(
        title="finstill",
        version=__version__,
        description=ABOUT,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    app.state.services = services
    app.state.snapshots = Snapshots()
    app.state.stopping = threading.Event()
    app.state.metrics = Metrics(services)
    problems.install(app, _respond)
    faults.install(app)
    for part in (jobs, runs, datasets, system, pages, results, comparisons):
        app.include_router(part.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    observe = _observer(app.state.metrics)
    app.add_middleware(Guard, hosts=services.options.hosts, observe=observe)
    return app


def _respond(request: Request, problem: problems.Problem) -> Response:
    person = faults.is_page(request)
    return (faults.page_of if person else problems.respond_json)(request, problem)


def _observer(metrics: Metrics) -> Any:
    def observe(scope: Mapping[str, Any], status: int, seconds: float) -> None:
        metrics.observe(scope, status, seconds)
        logger.info(
            "%s %s %s %.0f ms",
            scope["method"], scope["path"], status, seconds * 1000,
            extra={"request_id": scope["finstill.request_id"], "status": status},
        )  # fmt: skip

    return observe


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The schema, with the one body of all errors in it."""
    if not app.openapi_schema:
        schema = get_openapi(title=app.title, version=app.version, description=app.description,
                             routes=app.routes)  # fmt: skip
        parts = schema["components"]["schemas"]
        body = problems.ProblemDetails.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        parts["Fault"] = body.pop("$defs")["Fault"]
        parts["ProblemDetails"] = body
        parts.pop("HTTPValidationError", None)
        parts.pop("ValidationError", None)
        app.openapi_schema = schema
    return app.openapi_schema
