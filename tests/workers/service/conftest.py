"""The service over a real Redis, called without a network, with a worker that is merely announced."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import redis
from fastapi import FastAPI
from starlette.testclient import TestClient

from workers.api.app import create_app
from workers.embedded_redis import EmbeddedRedis
from workers.services import Settings
from workers.tokens import Scope, Tokens

Answer = httpx2.Response


@pytest.fixture
def settings(tmp_path: Path, server: EmbeddedRedis) -> Settings:
    return Settings(
        redis_url=server.url,
        runs=tmp_path / "runs",
        state=tmp_path / "state",
        threads=1,
        anthropic_api_key="sk-planted-anthropic-key",
    )


@pytest.fixture
def app(settings: Settings, client: redis.Redis) -> FastAPI:
    record = {"name": "host:1", "queues": ["label", "train", "evaluate"], "pid": 1}
    record["started_at"] = time.time()
    client.set("finstill:worker:host:1", json.dumps(record))
    return create_app(settings)


@pytest.fixture
def web(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as caller:
        yield caller


@pytest.fixture
def bearer(client: redis.Redis) -> Callable[..., dict[str, str]]:
    """Headers with a new token of a scope."""

    def make(scope: str = "read", requests_per_minute: int = 1_000_000) -> dict[str, str]:
        _, text = Tokens(client).create(f"test {scope}", Scope(scope), requests_per_minute)
        return {"Authorization": f"Bearer {text}"}

    return make


@pytest.fixture
def reader(bearer: Callable[..., dict[str, str]]) -> dict[str, str]:
    return bearer("read")


@pytest.fixture
def submitter(bearer: Callable[..., dict[str, str]]) -> dict[str, str]:
    return bearer("submit")


@pytest.fixture
def admin(bearer: Callable[..., dict[str, str]]) -> dict[str, str]:
    return bearer("admin")
