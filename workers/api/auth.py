"""Who asks, what they may do, and how often."""

import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Annotated, Any, cast

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from workers.api.problems import Problem
from workers.api.state import Services, services_of
from workers.tokens import PREFIX, Scope, Token, token_id_of, verified

BURST_SECONDS = 2.0
FAILURES_PER_MINUTE = 60
FAILURE_BURST_SECONDS = 20.0

REMEMBERED_SECONDS = 60.0
_MOST_REMEMBERED = 1000

# auto_error off: the answer is ours, with the challenge RFC 6750 asks for.
bearer = HTTPBearer(
    auto_error=False, scheme_name="bearer", description="A token of `finstill token create`."
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]


async def authenticate(request: Request, credentials: Credentials) -> Token:
    """
    The caller's token, counted against its rate. Raises Problem 401 or 429.

    A browser's session stands in for a bearer token where nothing can be changed: cookies travel by
    themselves, so requests that change something need the header or the page's own form.
    """
    services = services_of(request)
    token = await _of_header(services, credentials)
    if token is None and credentials is None and request.method in ("GET", "HEAD"):
        token = await services.sessions.token_of(request)
    if token is None or not await _limit_token(services, token):
        if credentials is not None:
            await count_failure(services, request)
        raise Problem(
            401,
            "a valid bearer token is needed; make one with `finstill token create`.",
            headers={"WWW-Authenticate": 'Bearer realm="finstill"'},
        )
    return token


def needs(scope: Scope) -> Callable[..., Awaitable[Token]]:
    """A dependency: the caller's token, refused with 403 when it does not cover `scope`."""

    async def check(token: Annotated[Token, Depends(authenticate)]) -> Token:
        if not token.scope.allows(scope):
            raise Problem(403, f"this needs the scope '{scope}', the token has '{token.scope}'.")
        return token

    return check


Reader = Annotated[Token, Depends(needs(Scope.READ))]
Submitter = Annotated[Token, Depends(needs(Scope.SUBMIT))]
Admin = Annotated[Token, Depends(needs(Scope.ADMIN))]


async def _of_header(
    services: Services, credentials: HTTPAuthorizationCredentials | None
) -> Token | None:
    """
    The token of the header, if it is one.

    Its proof is remembered by the digest of its text; that it still exists is asked every time.
    """
    if credentials is None or len(credentials.credentials) > 200:
        return None
    text, now = credentials.credentials, time.monotonic()
    proof = sha256(text.encode("utf-8", "surrogateescape")).digest()
    token, until = services.proven.get(proof, (None, 0.0))
    if now < until:
        return token
    stored = await cast(Awaitable[Any], services.async_redis.hgetall(PREFIX + token_id_of(text)))
    if token := verified(text, stored):
        if len(services.proven) >= _MOST_REMEMBERED:
            services.proven.clear()
        services.proven[proof] = (token, now + REMEMBERED_SECONDS)
    return token


async def _limit_token(services: Services, token: Token) -> bool:
    """Count a request of a token; False when it was revoked. Raises Problem 429."""
    return await _pass(
        services, f"token:{token.id}", token.requests_per_minute, BURST_SECONDS, PREFIX + token.id
    )


async def limit_rate(
    services: Services, who: str, per_minute: int, burst_seconds: float = BURST_SECONDS
) -> None:
    """Let `who` pass at most so often on average. Raises Problem 429."""
    await _pass(services, who, per_minute, burst_seconds)


async def _pass(
    services: Services, who: str, per_minute: int, burst_seconds: float, *must_exist: str
) -> bool:
    step = 60_000 / per_minute
    burst = max(step, burst_seconds * 1000)
    wait = int(await services.rate(keys=[f"finstill:rate:{who}", *must_exist], args=[step, burst]))
    if wait > 0:
        seconds = str(max(1, -(-wait // 1000)))
        raise Problem(
            429, f"more than {per_minute} requests a minute.", headers={"Retry-After": seconds}
        )
    return wait == 0


async def count_failure(services: Services, request: Request) -> None:
    """Guessing is slowed down per address."""
    address = request.client.host if request.client else "unknown"
    who = f"failed:{address}"
    await limit_rate(services, who, FAILURES_PER_MINUTE, FAILURE_BURST_SECONDS)
