"""A worker or Redis dies in the middle: nothing is lost, at most what was in flight paid twice."""

import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from common.config.teacher import LabellingConfig, Pace
from common.records import Example, TeacherAnswer
from teacher.base import Question
from teacher.labelling import label_examples
from teacher.services import redis_services

PACE = Pace(max_concurrency=8)
GOOD = {
    "label": "positive",
    "rationale": "Profit rose, which supports earnings.",
    "confidence": 0.9,
}


def paid(log: Path) -> Counter[str]:
    return Counter(log.read_text().split()) if log.exists() else Counter()


def paying(scripted: Any, log: Path) -> Any:
    """A teacher that notes every paid answer in a file that outlives its process."""

    def behave(question: Question, _earlier: int) -> Any:
        with log.open("a") as stream:
            stream.write(f"{question.example_id}\n")
        return GOOD

    return scripted(behave, seconds=0.01)


def label(client: redis.Redis, teacher: Any, rows: list[Example]) -> list[Any]:
    labelling = LabellingConfig()
    return label_examples(rows, teacher, labelling, redis_services(client, "job", labelling, PACE))


def test_a_killed_workers_answers_are_kept_and_its_leases_end(
    scripted: Any, examples: Callable[..., list[Example]], server: Any, tmp_path: Path
) -> None:
    log = tmp_path / "paid"
    teacher = paying(scripted, log)

    def work() -> None:
        label(server.client(), teacher, examples(200))
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    while paid(log).total() < 100:
        time.sleep(0.002)
    process.kill()
    process.join()
    client = server.client()
    client.delete("finstill:pace:scripted:script-1")
    for key in client.scan_iter("finstill:alive:*"):
        client.delete(key)  # instead of waiting for its heartbeat to run out

    answers = label(client, teacher, examples(200))

    assert all(isinstance(answer, TeacherAnswer) for answer in answers)
    assert len(paid(log)) == 200
    assert paid(log).total() - 200 <= PACE.max_concurrency


def test_a_restarted_redis_costs_nothing(
    scripted: Any, examples: Callable[..., list[Example]], server: Any, tmp_path: Path
) -> None:
    log = tmp_path / "paid"

    def restart() -> None:
        while paid(log).total() < 50:
            time.sleep(0.002)
        server.kill()
        time.sleep(0.2)
        server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    answers = label(server.client(), paying(scripted, log), examples(150))
    thread.join()
    again = label(server.client(), paying(scripted, log), examples(150))

    assert all(isinstance(answer, TeacherAnswer) for answer in answers)
    assert set(paid(log).values()) == {1}
    assert all(answer.cached for answer in again)
