"""The embedded server keeps what was written through kills and restarts, and leaves nothing."""

import os
import signal
from pathlib import Path

import pytest
import redis

from common.errors import ServiceError
from workers.embedded_redis import EmbeddedRedis
from workers.services import connect, kombu_url


def process_id(server: EmbeddedRedis) -> int:
    with redis.Redis.from_url(server.url) as client:
        return int(client.info("server")["process_id"])


def test_a_killed_server_comes_back_with_its_data(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.set("answer", "paid")
        client.execute_command("WAITAOF", 1, 0, 5000)
    os.kill(process_id(server), signal.SIGKILL)
    while server.answers():
        pass

    server.start()

    with redis.Redis.from_url(server.url) as client:
        assert client.get("answer") == b"paid"
    server.stop()


def test_a_running_server_is_taken_over_not_doubled(tmp_path: Path) -> None:
    first, second = EmbeddedRedis(tmp_path), EmbeddedRedis(tmp_path)
    first.start()

    second.start()

    assert process_id(first) == process_id(second)
    second.stop()
    assert not first.answers()


def test_it_evicts_nothing_and_writes_to_disk(server: EmbeddedRedis) -> None:
    with redis.Redis.from_url(server.url) as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("appendonly")["appendonly"] == "yes"


def test_a_long_folder_name_still_gets_a_socket(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / ("x" * 120))

    server.start()

    assert server.answers()
    server.stop()


def test_an_address_nobody_answers_at_is_one_sentence_without_the_password() -> None:
    with pytest.raises(ServiceError) as caught:
        connect("redis://:secret@127.0.0.1:1/0")

    assert "127.0.0.1:1" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_socket_address_is_spelt_as_kombu_wants_it() -> None:
    assert kombu_url("unix:///a/b.sock?db=0") == "redis+socket:///a/b.sock?virtual_host=0"
    assert kombu_url("redis://host:1/2") == "redis://host:1/2"
