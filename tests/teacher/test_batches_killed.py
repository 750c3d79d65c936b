"""Batches with worker processes that are killed: real Redis, real HTTP, real SIGKILL."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from teacher.cache import RedisCache
from teacher.entries import decode
from tests.doubles import wire_double as wire

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import asyncio, sys, time
import redis
from common.config.teacher import ClaudeTeacher, LabellingConfig, Pace
from common.records import Example
from common.task import load_task
from teacher.backends.claude import Claude
from teacher.backends.claude_batches import batch_job
from teacher.batch_answers import questions_of
from teacher.batch_job import BatchRules
from teacher.batch_ledger import BatchLedger
from teacher.batches import advance_batches
from teacher.prompts import load_prompt
from teacher.services import redis_services

socket, url, key, rows, size = sys.argv[1:]

def examples():
    return (Example(id=str(i), text=f"Order {i} was placed.") for i in range(int(rows)))

async def run():
    client = redis.Redis(unix_socket_path=socket)
    config = ClaudeTeacher(kind="claude", model="claude-haiku-5-5", mode="batch")
    bound = load_prompt("sentiment-v1").bind(load_task("sentiment"), "after_label")
    teacher = Claude(config, bound, key, url)
    services = redis_services(client, "j", LabellingConfig(max_usd=100.0), Pace())
    rules = BatchRules(max_requests=int(size), grace_seconds=0.5, poll_seconds=(0.05, 1.0))
    job = batch_job(teacher, services, BatchLedger(client), "j", rules)
    while True:
        progress = await advance_batches(job, lambda: questions_of(examples(), teacher))
        if progress.next_poll_seconds is None:
            money = services.purse.money()
            print("FINISHED", progress.failed, money.spent, money.reserved + money.lost)
            return await teacher.close()
        time.sleep(progress.next_poll_seconds)

asyncio.run(run())
"""


@pytest.fixture
def double() -> Iterator[Any]:
    with wire.WireDouble() as running:
        yield running


def start(server: Any, double: Any, rows: int, size: int) -> subprocess.Popen[str]:
    arguments = [str(server.socket), double.url, double.key, str(rows), str(size)]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def kill_when(worker: subprocess.Popen[str], double: Any, requests: int) -> None:
    """SIGKILL as soon as the service has seen so many requests in all."""
    deadline = time.monotonic() + 60
    while len(double.seen) < requests and time.monotonic() < deadline:
        assert worker.poll() is None, "the worker ended before it was killed"
        time.sleep(0.001)
    worker.kill()
    worker.wait()


@pytest.mark.parametrize(
    ("rows", "size", "kills"),
    [
        pytest.param(120, 20, (3, 9), id="120 rows"),
        pytest.param(10_000, 1_000, (4, 12, 18, 30), marks=pytest.mark.slow, id="10,000 rows"),
    ],
)
def test_a_job_killed_again_and_again_is_complete_and_nothing_is_paid_twice(
    server: Any, double: Any, rows: int, size: int, kills: tuple[int, ...]
) -> None:
    fated: Counter[str] = Counter()

    def fate(batch: Any, index: int, key: str) -> str:
        fated[key] += 1
        if len(batch.requests) == size and batch is list(double.batches.values())[1]:
            return "expired"
        return "api_error" if int(key[:4], 16) % 100 == 0 and fated[key] == 1 else "succeeded"

    double.batch_fate = fate
    began = time.monotonic()
    for requests in kills:
        with start(server, double, rows, size) as worker:
            kill_when(worker, double, requests)
        with server.client() as client:
            client.delete("finstill:batch:lock:j")  # lapses by itself after a minute

    with start(server, double, rows, size) as worker:
        printed, _ = worker.communicate(timeout=300)

    with server.client() as client:
        entries = [decode(packed) for _, packed in RedisCache(client).packed()]
    print(
        f"\n{rows} rows, {len(kills)} kills: {time.monotonic() - began:.1f} s, "
        f"{len(double.batches)} batches, {len(entries)} answers, {printed.strip()}"
    )
    word, failed, spent, withheld = printed.split()
    assert (word, failed, float(withheld)) == ("FINISHED", "0", 0.0)
    assert len(entries) == len(double.paid) == rows
    assert max(double.paid.values()) == 1
    assert float(spent) == pytest.approx(sum(entry.reply.usage.usd for entry in entries))
