"""Putting a task on the queue while the broker comes and goes."""

from pathlib import Path

import pytest
import redis
from kombu.transport.redis import Channel

from workers.celery_app import app
from workers.embedded_redis import EmbeddedRedis
from workers.graph import Stage
from workers.services import kombu_url
from workers.tasks import send

STAGE = Stage("prepare", "label", (), "Prepare")


def test_a_broker_that_is_away_is_told_like_any_redis_that_is(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    url = kombu_url(server.url)
    server.stop()

    with app.connection_for_write(url) as connection, pytest.raises(redis.ConnectionError):
        send(STAGE, "small-1", None, connection=connection)


def test_a_channel_that_closed_under_a_message_is_no_fault_of_ours(
    server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(channel: Channel, asynchronous: bool = False) -> None:
        """What kombu says when Redis ended and came back while it sent."""
        raise AttributeError("'NoneType' object has no attribute 'client'")

    with app.connection_for_write(kombu_url(server.url)) as connection:
        assert connection.default_channel
        monkeypatch.setattr(Channel, "_get_pool", closed)
        with pytest.raises(redis.ConnectionError):
            send(STAGE, "small-1", None, connection=connection)
