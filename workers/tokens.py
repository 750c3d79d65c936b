"""
Bearer tokens: who may read, submit or administer. Redis holds their SHA-256, never themselves.

A token reads `fst_ID_SECRET`. The secret has 256 random bits, so a plain hash of it suffices: there
is nothing to guess that a slow hash would protect.
"""

import hmac
import re
import secrets
import time
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from common.errors import InputError
from common.records import Record

if TYPE_CHECKING:
    import redis

PREFIX = "finstill:token:"
_INDEX = "finstill:tokens"
NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}$"
_FORM = re.compile(r"fst_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_NOBODY = sha256(b"nobody").hexdigest()
DEFAULT_REQUESTS_PER_MINUTE = 6000


class Scope(StrEnum):
    """What a token allows; each includes the ones before it."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    def allows(self, wanted: "Scope") -> bool:
        """Whether this scope covers `wanted`."""
        order = list(Scope)
        return order.index(self) >= order.index(wanted)


class Token(Record):
    """A token as it may be shown: without its secret. `created_at` in seconds since 1970."""

    id: str
    name: str = Field(pattern=NAME)
    scope: Scope
    created_at: float
    requests_per_minute: int = Field(default=DEFAULT_REQUESTS_PER_MINUTE, gt=0, le=10_000_000)


class Tokens:
    """The tokens of one Redis."""

    def __init__(self, client: "redis.Redis"):
        self._redis = client

    def create(
        self,
        name: str,
        scope: Scope,
        requests_per_minute: int = DEFAULT_REQUESTS_PER_MINUTE,
    ) -> tuple[Token, str]:
        """A new token and, this once, the text that proves it. Raises InputError for a bad name."""
        if not re.fullmatch(NAME, name):
            raise InputError(
                f"token name {name[:80]!r}: expected up to 64 letters, digits, spaces or . _ @ -."
            )
        token_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        token = Token(
            id=token_id,
            name=name,
            scope=scope,
            created_at=time.time(),
            requests_per_minute=requests_per_minute,
        )
        pipe = self._redis.pipeline()
        digest = _digest(secret)
        pipe.hset(PREFIX + token_id, mapping={"digest": digest, "token": token.model_dump_json()})
        pipe.zadd(_INDEX, {token_id: token.created_at})
        pipe.execute()
        return token, f"fst_{token_id}_{secret}"

    def first(self) -> str | None:
        """The text of a first admin token, made when there is none; None when there is one."""
        if self.all() or not self._redis.set("finstill:tokens:first", "made", nx=True, ex=10):
            return None
        return self.create("first", Scope.ADMIN)[1]

    def all(self) -> list[Token]:
        """Every token that is valid, oldest first."""
        ids = cast(list[bytes], self._redis.zrange(_INDEX, 0, -1))
        raws = [cast("bytes | None", self._redis.hget(PREFIX + i.decode(), "token")) for i in ids]
        return [Token.model_validate_json(raw) for raw in raws if raw]

    def revoke(self, token_id: str) -> None:
        """End a token at once. Raises InputError for an unknown id."""
        if not self._redis.delete(PREFIX + token_id):
            known = ", ".join(token.id for token in self.all()) or "none"
            raise InputError(f"'{token_id}' is the id of no token; known: {known}.")
        self._redis.zrem(_INDEX, token_id)

    def check(self, text: str) -> Token | None:
        """The token a text proves, or None."""
        return verified(text, self._redis.hgetall(PREFIX + token_id_of(text)))


def token_id_of(text: str) -> str:
    """The id a text claims; a text of another form gets one that no token has."""
    match = _FORM.fullmatch(text)
    return match.group(1) if match else "-"


def verified(text: str, stored: Any) -> Token | None:
    """
    The stored token if `text` proves it.

    The digest is compared in constant time, and compared even when there is no such token.
    """
    match = _FORM.fullmatch(text)
    told = _digest(match.group(2)) if match else _digest(text)
    kept = stored.get(b"digest", b"").decode() or _NOBODY
    if not hmac.compare_digest(told, kept) or not match:
        return None
    return Token.model_validate_json(stored[b"token"])


def _digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
