"""Errors as RFC 9457 problem details; nothing of the server's inside is told."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import redis
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from common.errors import DiskFull, FinstillError, ServiceError, UsageError

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"

TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    411: "Length required",
    413: "Too large",
    415: "Unsupported media type",
    422: "Not valid",
    429: "Too many requests",
    500: "Internal error",
    503: "Not available",
    504: "Took too long",
    507: "Disk full",
}


class Fault(BaseModel):
    """One thing that is wrong in the request: where, as a JSON pointer, and what."""

    pointer: str
    detail: str


class ProblemDetails(BaseModel):
    """The body of every error (RFC 9457)."""

    type: str = Field(examples=["urn:finstill:problem:not-found"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no job 'demo-0123456789'."])
    instance: str = Field(examples=["urn:finstill:request:9f1c0b7a2d3e4f56"])
    errors: list[Fault] | None = None


class Problem(Exception):
    """Raised anywhere below a route; becomes the response."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        slug: str | None = None,
        headers: Mapping[str, str] | None = None,
        errors: list[Fault] | None = None,
    ):
        super().__init__(detail)
        self.status, self.detail, self.errors = status, detail, errors
        self.slug = slug or TITLES.get(status, "error").lower().replace(" ", "-")
        self.headers = dict(headers or {})


def not_found(what: str, name: str) -> Problem:
    """404 for a thing of this name."""
    return Problem(404, f"there is no {what} '{name[:100]}'.")


def problem_body(problem: Problem, request_id: str) -> dict[str, Any]:
    """The JSON of a problem."""
    details = ProblemDetails(
        type=f"urn:finstill:problem:{problem.slug}",
        title=TITLES.get(problem.status, "Error"),
        status=problem.status,
        detail=problem.detail,
        instance=f"urn:finstill:request:{request_id}",
        errors=problem.errors,
    )
    return details.model_dump(exclude_none=True)


def respond_json(request: Request, problem: Problem) -> Response:
    """The response to a problem, for programs."""
    request_id = request.scope.get("finstill.request_id", "")
    body = problem_body(problem, request_id)
    return JSONResponse(body, problem.status, problem.headers, media_type=MEDIA_TYPE)


def problem_of(error: Exception, request: Request) -> Problem:
    """What an exception means to a client."""
    scrub = request.app.state.services.scrub
    match error:
        case Problem():
            return error
        case HTTPException():
            title = TITLES.get(error.status_code, "Error")
            headers = {k: v for k, v in (error.headers or {}).items() if k.lower() == "allow"}
            return Problem(error.status_code, f"{title.lower()}.", headers=headers)
        case RequestValidationError():
            return Problem(422, "the request does not have the expected form.",
                           errors=_faults(error))  # fmt: skip
        case DiskFull():
            return Problem(507, scrub(str(error)))
        case UsageError():
            return Problem(422, scrub(str(error)))
        case ServiceError():
            return Problem(503, scrub(str(error)), headers={"Retry-After": "5"})
        case FinstillError():
            return Problem(409, scrub(str(error)))
        case redis.RedisError():
            return Problem(503, "Redis does not answer; try again.", headers={"Retry-After": "2"})
        case _:
            return Problem(500, "something went wrong here; the log has it under this instance.")


def _faults(error: RequestValidationError) -> list[Fault]:
    """Where and what, without the input: it may hold what must not be repeated."""
    found = []
    for fault in error.errors()[:50]:
        pointer = "/" + "/".join(str(part)[:60] for part in fault["loc"])
        found.append(Fault(pointer=pointer, detail=str(fault["msg"])[:300]))
    return found


Respond = Callable[[Request, Problem], Response]


def install(app: FastAPI, respond: Respond) -> None:
    """Turn every exception of the app into a problem."""

    async def handle(request: Request, error: Exception) -> Response:
        problem = problem_of(error, request)
        if problem.status >= 500:
            request_id = request.scope.get("finstill.request_id", "")
            logger.error("request %s failed", request_id, exc_info=error)
        return respond(request, problem)

    for kind in (Problem, HTTPException, RequestValidationError, FinstillError,
                 redis.RedisError, Exception):  # fmt: skip
        app.add_exception_handler(kind, handle)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem responses of a route for OpenAPI; 401, 403 and 429 go without saying."""
    return {
        status: {
            "description": TITLES[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
        }
        for status in sorted({400, 401, 403, 422, 429, 503, *statuses})
    }
