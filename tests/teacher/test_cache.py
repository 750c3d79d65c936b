"""The cache keeps what was paid, for whoever asks first, whatever it is made of."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.errors import InputError, ServiceError
from common.fingerprint import digest
from common.records import Usage
from teacher.base import Reply
from teacher.cache import (
    HEARTBEAT_SECONDS,
    LEASE_SECONDS,
    AnswerCache,
    Claim,
    MemoryCache,
    RedisCache,
)
from teacher.cache_files import (
    cache_stats,
    drop_answers,
    export_cache,
    import_cache,
    verify_cache,
)
from teacher.entries import VERSION, Entry, decode, encode
from teacher.patience import patiently
from teacher.services import check_durability

KEYS = [digest(i) for i in range(5)]
IMPATIENT = Retry(NoBackoff(), 0)
INNER = st.none() | st.booleans() | st.integers() | st.text()
JSON = st.recursive(INNER, lambda i: st.lists(i) | st.dictionaries(st.text(), i), max_leaves=10)


def entry(text: str = "Profit rose.", teacher: str = "t", usd: float = 0.25) -> Entry:
    usage = Usage(input_tokens=300, output_tokens=60, usd=usd)
    body = {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
    return Entry(Reply(body, usage, "model-1", 1_790_000_000.25, 0.5), teacher, "claude", "terms")


def test_what_is_stored_is_found_in_the_order_asked(cache: AnswerCache) -> None:
    cache.store({KEYS[0]: entry("a"), KEYS[2]: entry("c")}, "me")

    found = cache.look_up([KEYS[2], KEYS[1], KEYS[0]])

    assert found == [entry("c"), None, entry("a")]


def test_a_look_up_may_be_of_any_length(cache: AnswerCache) -> None:
    keys = [digest(["k", i]) for i in range(2500)]
    cache.store({key: entry(key) for key in keys}, "me")

    found = cache.look_up(keys)

    assert [e.reply.body["content"][0]["text"] for e in found if e] == keys
    assert cache.look_up([]) == []


def test_a_key_is_leased_to_one_and_told_to_the_others(cache: AnswerCache) -> None:
    assert cache.claim(KEYS[:2], "a") == [Claim.MINE, Claim.MINE]
    assert cache.claim(KEYS[:3], "b") == [Claim.HELD, Claim.HELD, Claim.MINE]
    assert cache.claim(KEYS[:1], "a") == [Claim.MINE]


def test_storing_ends_the_lease_and_tells_who_claims(cache: AnswerCache) -> None:
    cache.claim(KEYS[:1], "a")

    cache.store({KEYS[0]: entry()}, "a")

    assert cache.claim(KEYS[:1], "b") == [entry()]


def test_a_released_key_is_free_and_only_its_owner_releases_it(cache: AnswerCache) -> None:
    cache.claim(KEYS[:1], "a")

    cache.release(KEYS[:1], "b")
    assert cache.claim(KEYS[:1], "b") == [Claim.HELD]
    cache.release(KEYS[:1], "a")
    assert cache.claim(KEYS[:1], "b") == [Claim.MINE]


def test_a_lease_ends_with_its_owners_heartbeat() -> None:
    now = [0.0]
    cache = MemoryCache(clock=lambda: now[0])
    cache.claim(KEYS[:1], "a")
    now[0] = HEARTBEAT_SECONDS - 1
    cache.beat("a")

    now[0] += HEARTBEAT_SECONDS - 1
    assert cache.claim(KEYS[:1], "b") == [Claim.HELD]
    now[0] += 2
    assert cache.claim(KEYS[:1], "b") == [Claim.MINE]


def test_in_redis_a_lease_ends_with_its_owners_heartbeat(client: redis.Redis) -> None:
    cache = RedisCache(client)
    cache.claim(KEYS[:1], "a")
    assert 0 < client.pttl("finstill:alive:a") <= HEARTBEAT_SECONDS * 1000

    client.delete("finstill:alive:a")

    assert cache.claim(KEYS[:1], "b") == [Claim.MINE]


def test_in_redis_nothing_is_left_of_a_lease_whose_owner_was_lost(client: redis.Redis) -> None:
    cache = RedisCache(client)
    cache.claim(KEYS[:2], "a", kept=0.2)

    cache.beat("a", leased=KEYS[:1])
    time.sleep(0.4)

    assert len(list(client.scan_iter("finstill:l:*"))) == 1
    assert 0 < client.pttl(b"finstill:l:" + bytes.fromhex(KEYS[0])) <= LEASE_SECONDS * 1000


def test_an_entry_survives_its_encoding_and_is_small() -> None:
    packed = encode(entry("Net sales rose by 12 percent, which supports earnings."))

    assert decode(packed) == entry("Net sales rose by 12 percent, which supports earnings.")
    assert packed[0] == VERSION
    assert len(packed) < 200


@given(JSON)
def test_any_json_body_comes_back_as_it_was(value: Any) -> None:
    whole = dataclasses.replace(entry(), reply=Reply({"x": value}, Usage(), "m"))

    assert decode(encode(whole)) == whole


def test_damage_and_newer_versions_are_named() -> None:
    packed = encode(entry())

    with pytest.raises(InputError, match="damaged"):
        decode(packed[:20] + bytes([packed[20] ^ 1]) + packed[21:])
    with pytest.raises(InputError, match="damaged"):
        decode(b"")
    newer = bytes([VERSION + 1]) + packed[1:-4]
    import zlib

    with pytest.raises(InputError, match=f"version {VERSION + 1}, this program reads {VERSION}"):
        decode(newer + zlib.crc32(newer).to_bytes(4, "big"))


def test_stats_tell_who_said_how_much_at_what_price(cache: AnswerCache) -> None:
    cache.store({KEYS[0]: entry("a"), KEYS[1]: entry("b"), KEYS[2]: entry("c", "other")}, "me")

    stats = cache_stats(cache)

    assert (stats.answers, stats.damaged) == (3, 0)
    assert [(s.teacher, s.answers, s.usd, s.output_tokens) for s in stats.shares] == [
        ("other", 1, 0.25, 60),
        ("t", 2, 0.5, 120),
    ]


def test_export_and_import_carry_everything_and_importing_twice_changes_nothing(
    cache: AnswerCache, tmp_path: Path
) -> None:
    stored = {KEYS[0]: entry("a"), KEYS[1]: entry("b", "other")}
    cache.store(stored, "me")
    path = tmp_path / "answers.parquet"

    written = export_cache(cache, path)
    other = MemoryCache()
    other.store({KEYS[0]: entry("kept")}, "me")
    first, second = import_cache(other, path), import_cache(other, path)

    assert written == 2
    assert (first, second) == ((2, 1), (2, 0))
    assert other.look_up(KEYS[:2]) == [entry("kept"), stored[KEYS[1]]]
    again = MemoryCache()
    import_cache(again, path)
    assert dict(again.packed()) == dict(cache.packed())


def test_a_file_that_is_no_export_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": [b"x" * 32]}), tmp_path / "other.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"nothing")

    for name, sentence in [
        ("other.parquet", "has no column body"),
        ("bad.parquet", "cannot be read"),
        ("none.parquet", "cannot be read"),
    ]:
        with pytest.raises(InputError, match=sentence):
            import_cache(MemoryCache(), tmp_path / name)


def test_verify_finds_damage_and_drop_removes_it(client: redis.Redis) -> None:
    cache = RedisCache(client)
    cache.store({KEYS[0]: entry("a"), KEYS[1]: entry("b")}, "me")
    client.set(b"finstill:a:" + bytes.fromhex(KEYS[1]), b"\x01garbage")

    found = verify_cache(cache)
    dropped = drop_answers(cache, damaged=True)

    assert (found.checked, found.damaged) == (2, [KEYS[1]])
    assert dropped == 1
    assert verify_cache(cache).damaged == []


def test_drop_takes_what_meets_every_condition_and_never_everything(cache: AnswerCache) -> None:
    cache.store({KEYS[0]: entry("a"), KEYS[1]: entry("b", "other")}, "me")

    with pytest.raises(InputError, match="say which answers"):
        drop_answers(cache)
    assert drop_answers(cache, teacher="other", before=0.0) == 0
    assert drop_answers(cache, teacher="other", model="model-1") == 1
    assert cache.look_up(KEYS[:2]) == [entry("a"), None]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "may evict paid answers .*allkeys-lru"),
        ({"appendonly": "no", "save": ""}, "keeps nothing on disk"),
    ],
)
def test_paid_work_is_refused_on_a_redis_that_may_lose_answers(
    client: redis.Redis, changes: dict[str, str], sentence: str
) -> None:
    before = {name: str(client.config_get(name)[name]) for name in changes}
    check_durability(client)
    try:
        for name, value in changes.items():
            client.config_set(name, value)

        with pytest.raises(ServiceError, match=sentence):
            check_durability(client)
        check_durability(client, accept_volatile=True)
    finally:
        for name, value in before.items():
            client.config_set(name, value)


def test_redis_away_for_a_while_is_waited_for(server: Any) -> None:
    client = server.client()
    RedisCache(client).store({KEYS[0]: entry("a")}, "me")
    client.set_retry(IMPATIENT)
    server.kill()
    restarted: list[bool] = []

    def restart(_seconds: float) -> None:
        if not restarted:
            restarted.append(True)
            server.start()

    found = patiently(partial(client.get, b"finstill:a:" + bytes.fromhex(KEYS[0])), sleep=restart)

    assert isinstance(found, bytes)
    assert decode(found) == entry("a")


def test_redis_away_for_too_long_is_a_sentence(tmp_path: Path) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    nobody = redis.Redis(unix_socket_path=str(tmp_path / "none.sock"), retry=IMPATIENT)
    call: Callable[[], Any] = nobody.ping

    with pytest.raises(ServiceError, match="has not answered for 60 seconds"):
        patiently(call, sleep=sleep, clock=lambda: now[0])


def test_a_full_redis_is_a_sentence_at_once(client: redis.Redis) -> None:
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(ServiceError, match="refuses to keep answers"):
            RedisCache(client).store({KEYS[0]: entry()}, "me")
    finally:
        client.config_set("maxmemory", "0")
