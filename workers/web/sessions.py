"""Browser sessions: a random cookie that stands for a token, kept in Redis as its hash."""

import hmac
import json
import secrets
from collections.abc import Awaitable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

from starlette.requests import Request
from starlette.responses import Response

from workers.tokens import PREFIX, Token

if TYPE_CHECKING:
    import redis.asyncio

COOKIE = "finstill_session"
LIFE_SECONDS = 12 * 3600
_KEY = "finstill:session:"


class Sessions:
    """Opens, finds and ends sessions. A session ends with its token."""

    def __init__(self, client: "redis.asyncio.Redis", secure: bool):
        self._redis, self._secure = client, secure

    async def open(self, token: Token, response: Response) -> None:
        """Give the browser a cookie that scripts cannot read and other sites cannot send."""
        session = secrets.token_urlsafe(32)
        value = json.dumps({"token": token.id, "csrf": secrets.token_urlsafe(24)})
        await self._redis.set(_key(session), value, ex=LIFE_SECONDS)
        response.set_cookie(
            COOKIE,
            session,
            max_age=LIFE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=self._secure,
        )

    async def find(self, request: Request) -> tuple[Token, str] | None:
        """The session's token, as it is now, and the secret its forms must repeat."""
        session = request.cookies.get(COOKIE, "")
        if not 20 < len(session) < 100:
            return None
        raw = await self._redis.get(_key(session))
        if raw is None:
            return None
        kept = json.loads(raw)
        waiting = cast(Awaitable[Any], self._redis.hget(PREFIX + kept["token"], "token"))
        stored = await waiting
        return (Token.model_validate_json(stored), kept["csrf"]) if stored else None

    async def token_of(self, request: Request) -> Token | None:
        """The session's token."""
        found = await self.find(request)
        return found[0] if found else None

    async def end(self, request: Request, response: Response) -> None:
        """Forget the session, here and in the browser."""
        await self._redis.delete(_key(request.cookies.get(COOKIE, "")))
        response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=self._secure)


def form_is_ours(request: Request, given: str, expected: str) -> bool:
    """Whether a form came from a page of ours: the browser says so, and it knows the secret."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    return site == "same-origin" and hmac.compare_digest(given.encode(), expected.encode())


def _key(session: str) -> str:
    return _KEY + sha256(session.encode("utf-8", "surrogateescape")).hexdigest()
