"""Putting a task on the queue while the broker comes and goes."""

from pathlib import Path
from typing import Any

import pytest
import redis

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


def test_a_channel_that_closed_under_a_message_is_no_fault_of_ours(server: EmbeddedRedis) -> None:
    with app.connection_for_write(kombu_url(server.url)) as connection:
        channel: Any = connection.default_channel
        channel.close()  # what kombu leaves behind when Redis ends and comes back within a message
        channel._disconnect_pools()

        with pytest.raises(redis.ConnectionError):
            send(STAGE, "small-1", None, connection=connection)
