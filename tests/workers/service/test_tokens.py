"""Tokens: kept as hashes, checked in full, ended at once."""

import pytest
import redis

from common.errors import InputError
from workers.tokens import Scope, Tokens


def test_redis_never_holds_the_secret(client: redis.Redis) -> None:
    _, text = Tokens(client).create("notebook", Scope.READ)
    secret = text.split("_", 2)[2]

    kept = []
    for key in client.scan_iter():
        kept.append(key)
        kind = client.type(key)
        kept.append(client.hgetall(key) if kind == b"hash" else client.dump(key))

    assert secret.encode() not in repr(kept).encode()
    assert Tokens(client).check(text) is not None


@pytest.mark.parametrize("change", ["{0}x", "{0} ", "x{0}", "fst_00000000_{1}", "fst_{2}_", ""])
def test_nothing_but_the_exact_text_is_taken(client: redis.Redis, change: str) -> None:
    made, text = Tokens(client).create("notebook", Scope.READ)
    wrong = change.format(text, text.split("_", 2)[2], made.id)

    assert Tokens(client).check(wrong) is None


def test_a_revoked_token_is_none(client: redis.Redis) -> None:
    tokens = Tokens(client)
    made, text = tokens.create("notebook", Scope.READ)

    tokens.revoke(made.id)

    assert tokens.check(text) is None
    assert tokens.all() == []
    with pytest.raises(InputError, match="id of no token"):
        tokens.revoke(made.id)


def test_the_first_token_is_made_once(client: redis.Redis) -> None:
    tokens = Tokens(client)

    first, second = tokens.first(), tokens.first()

    assert first is not None
    assert second is None
    made = tokens.check(first)
    assert made is not None
    assert made.scope is Scope.ADMIN


def test_scopes_include_the_ones_before_them() -> None:
    assert Scope.ADMIN.allows(Scope.SUBMIT)
    assert Scope.SUBMIT.allows(Scope.READ)
    assert not Scope.READ.allows(Scope.SUBMIT)
    assert not Scope.SUBMIT.allows(Scope.ADMIN)


def test_a_bad_name_is_one_sentence(client: redis.Redis) -> None:
    with pytest.raises(InputError, match="token name"):
        Tokens(client).create("a\nb", Scope.READ)
