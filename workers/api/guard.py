"""What stands before every route: host, size and form of the request; headers of the response."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
from pydantic_core import from_json
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.api.problems import MEDIA_TYPE, Problem, problem_body

logger = logging.getLogger(__name__)

MOST_JSON_BYTES = 1 << 20
BODY_SECONDS = 30.0
API_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
    "Cache-Control": "no-store",
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{8,64}")
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
Observe = Callable[[Mapping[str, Any], int, float], None]


class Guard:
    """
    Pure ASGI, so that a stream passes through unbuffered.

    A JSON body is read here, once, within its limits, and must be strict JSON: no NaN, no
    nesting beyond 200, no broken Unicode. `observe` hears of every request: scope, status, seconds.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], observe: Observe):
        self._app, self._hosts, self._observe = app, hosts, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, headers = time.perf_counter(), Headers(scope=scope)
        scope["finstill.request_id"] = _request_id(headers)
        status, answering = 500, False

        async def answer(message: Message) -> None:
            nonlocal status, answering
            if message["type"] == "http.response.start":
                answering = True
                status = message["status"]
                _add_headers(message, scope["finstill.request_id"])
            await send(message)

        try:
            receive = await self._checked(scope, headers, receive)
            await self._app(scope, receive, answer)
        except Problem as problem:
            await _refuse(problem, scope, receive, answer)
        except asyncio.CancelledError:  # the server stops and has waited for this long enough
            if answering:
                raise
            await _refuse(_stopping(), scope, receive, answer)
        finally:
            self._observe(scope, status, time.perf_counter() - begun)

    async def _checked(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        host = headers.get("host", "").lower()
        name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        if self._hosts and name not in self._hosts | _LOOPBACK:
            raise Problem(400, "the Host header names another server.", slug="host")
        if any(ord(sign) < 32 or ord(sign) == 127 for sign in scope["path"]):
            raise Problem(400, "the address holds control characters.")
        if scope["method"] not in ("POST", "PUT", "PATCH") or not _is_json(headers):
            return receive
        body = await _body(headers, receive)
        if body:
            _check_json(body)
        return _replay(body, receive)


def _is_json(headers: Headers) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


async def _body(headers: Headers, receive: Receive) -> bytes:
    declared = headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > MOST_JSON_BYTES:
        raise _too_large()
    body = bytearray()
    with anyio.move_on_after(BODY_SECONDS) as limit:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Problem(400, "the connection ended within the body.")
            body += message.get("body", b"")
            if len(body) > MOST_JSON_BYTES:
                raise _too_large()
            if not message.get("more_body", False):
                return bytes(body)
    assert limit.cancelled_caught
    raise Problem(400, f"the body did not arrive within {BODY_SECONDS:.0f} s.", slug="slow-body")


def _stopping() -> Problem:
    told = "the server is stopping and did not finish this; send it again."
    return Problem(503, told, slug="stopping", headers={"Retry-After": "2"})


def _too_large() -> Problem:
    return Problem(413, f"a JSON body may have {MOST_JSON_BYTES} bytes; upload data as a data set.")


def _check_json(body: bytes) -> None:
    try:
        from_json(body, allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        raise Problem(
            400, f"the body is not strict JSON: {str(error)[:120]}.", slug="json"
        ) from None


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _add_headers(message: Message, request_id: str) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Content-Security-Policy", API_POLICY)
    headers["X-Request-Id"] = request_id


async def _refuse(
    problem: Problem, scope: Scope, receive: Receive, send: Callable[[Message], Awaitable[None]]
) -> None:
    body = problem_body(problem, scope["finstill.request_id"])
    headers = {**problem.headers, "Connection": "close"}
    response = JSONResponse(body, problem.status, headers, media_type=MEDIA_TYPE)
    await response(scope, receive, send)
