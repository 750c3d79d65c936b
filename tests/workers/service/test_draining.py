"""What a server that is told to stop says to those it did not finish with."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import uvicorn

from workers.api.guard import Guard


async def slow(scope: Any, receive: Any, send: Any) -> None:
    """A route that is done long after the server's patience ends."""
    if scope["path"] == "/begun":
        await send({"type": "http.response.start", "status": 200, "headers": []})
    await asyncio.sleep(30)


@pytest.fixture
def server() -> Iterator[uvicorn.Server]:
    guard = Guard(slow, hosts=frozenset(), observe=lambda *_: None)
    config = uvicorn.Config(
        guard, port=0, lifespan="off", log_level="critical", timeout_graceful_shutdown=1
    )
    found = uvicorn.Server(config)
    thread = threading.Thread(target=found.run, daemon=True)
    thread.start()
    while not found.started:
        time.sleep(0.01)
    yield found
    found.should_exit = True
    thread.join(10)


def stop_soon(server: uvicorn.Server) -> str:
    port = server.servers[0].sockets[0].getsockname()[1]
    threading.Timer(0.3, lambda: setattr(server, "should_exit", True)).start()
    return f"http://127.0.0.1:{port}"


def test_a_request_the_server_did_not_wait_for_may_be_sent_again(server: uvicorn.Server) -> None:
    answer = httpx2.get(stop_soon(server) + "/v1/jobs", timeout=10)

    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.text)["type"] == "urn:finstill:problem:stopping"


def test_an_answer_that_has_begun_is_cut_off_and_no_second_one_begins(
    server: uvicorn.Server,
) -> None:
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(stop_soon(server) + "/begun", timeout=10)
