"""
What one teacher request costs on our side, by client, against a mock service (no Redis, no Celery).

    python benchmarks/teacher_clients.py --mock MOCK_SERVER.py [--rows 2000]

Each client runs in a process of its own, 64 in flight, 100 ms a request. `bare` is aiohttp alone,
the limit; `sdk` the Anthropic SDK with its defaults; `claude` and `vllm` are our backends, with
question, key and validation. Prints rows a second, ms of CPU a row and MB of resident memory.
"""

import argparse
import asyncio
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CLIENTS = ("bare", "httpx2", "sdk", "claude", "vllm")
IN_FLIGHT = 64
Ask = Callable[[int], Awaitable[None]]


def text(row: int) -> str:
    return f"Company {row} reported that its quarterly sales rose by {row % 90 + 1} percent."


def teacher(kind: str, url: str) -> Any:
    from pydantic import TypeAdapter

    from common.config.teacher import TeacherConfig
    from common.task import load_task
    from teacher.build import TeacherSettings, build_teacher

    model = {"claude": "claude-haiku-5-5", "vllm": "mock-teacher"}[kind]
    config = TypeAdapter[Any](TeacherConfig).validate_python({"kind": kind, "model": model})
    settings = TeacherSettings("k", url, url, None)
    return build_teacher(config, load_task("sentiment"), settings)


def our_backend(kind: str, url: str) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    from common.records import Example, TeacherAnswer

    asked = teacher(kind, url)

    async def ask(row: int) -> None:
        question = asked.question(Example(id=str(row), text=text(row)), 0)
        assert len(question.key) == 64
        answer = asked.read(question, await asked.ask(question))
        assert isinstance(answer, TeacherAnswer), answer

    return ask, asked.close


def payload(row: int) -> dict[str, Any]:
    from common.records import Example

    return dict(
        teacher("claude", "http://unused").question(Example(id="x", text=text(row)), 0).payload
    )


def library(name: str, url: str) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    fixed = payload(0)
    headers = {"authorization": "Bearer k", "anthropic-version": "2026-10-21"}

    def body(row: int) -> dict[str, Any]:
        return {**fixed, "messages": [{"role": "user", "content": text(row)}]}

    if name == "sdk":
        import anthropic

        client = anthropic.AsyncAnthropic(api_key="k", base_url=url, max_retries=0)

        async def ask(row: int) -> None:
            assert (await client.messages.create(**body(row))).stop_reason == "end_turn"

        return ask, client.close
    if name == "httpx2":
        import httpx2

        http = httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=1000))

        async def ask(row: int) -> None:
            reply = await http.post(f"{url}/v1/messages", json=body(row), headers=headers)
            assert reply.json()["stop_reason"] == "end_turn"

        return ask, http.aclose
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers)

    async def ask(row: int) -> None:
        async with session.post(f"{url}/v1/messages", json=body(row)) as reply:
            assert (await reply.json())["stop_reason"] == "end_turn"

    return ask, session.close


async def measure(name: str, url: str, rows: int) -> dict[str, Any]:
    ask, close = (our_backend if name in ("claude", "vllm") else library)(name, url)
    await asyncio.gather(*(ask(-i - 1) for i in range(8)))
    todo = iter(range(rows))

    async def work() -> None:
        for row in todo:
            await ask(row)

    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    await close()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "client": name,
        "rows_per_second": round(rows / seconds),
        "cpu_ms_per_row": round(1000 * cpu / rows, 2),
        "rss_mb": round(after.ru_maxrss / 1024),
    }


def serve(mock: str) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, mock, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    return server, f"http://127.0.0.1:{port}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mock", help="a server of the Anthropic and OpenAI APIs to start")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(asyncio.run(measure(*options.one, options.rows))))
        return
    server, url = serve(options.mock)
    try:
        for name in CLIENTS:
            command = [sys.executable, __file__, "--rows", str(options.rows), "--one", name, url]
            subprocess.run(command, check=True)
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
