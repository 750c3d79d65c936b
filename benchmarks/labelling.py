"""
How fast, how cheap and how robust labelling is, against a mock service and beside a bare client.

    python benchmarks/labelling.py --mock MOCK_SERVER.py [cold throttled warm duplicates budget ...]

MOCK_SERVER.py speaks the Anthropic and OpenAI APIs with 100 ms latency and 64 requests in flight,
429 above. Worker processes and a Redis-compatible server are started here, before any clock runs.
Every ratio is against a bare asyncio client in the same run. Prints one JSON object a scenario.
"""

import argparse
import asyncio
import json
import multiprocessing as mp
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import redis
from pydantic import TypeAdapter

from common.config.teacher import LabellingConfig, Pace, RecordedTeacher, TeacherConfig
from common.errors import JobPaused
from common.records import Example, TeacherAnswer
from common.task import load_task
from teacher.build import TeacherSettings, build_teacher
from teacher.cache import RedisCache
from teacher.entries import Entry
from teacher.labelling import label_examples
from teacher.loops import run
from teacher.services import redis_services
from workers.embedded_redis import EmbeddedRedis

CHUNK = 500
TASKS, RESULTS = "bench:tasks", "bench:results"
MODELS = {"vllm": "mock-teacher", "claude": "claude-haiku-5-5"}


@dataclass(frozen=True)
class Chunk:
    """One task: rows start..stop of a made-up data set, `repeat` ids sharing each text."""

    start: int
    stop: int
    kind: str = "vllm"
    job: str = "bench"
    prefix: str = "a"
    repeat: int = 1
    max_usd: float | None = None
    concurrency: int = 64
    timeout: float = 30.0
    answers: str = ""


def texts(chunk: Chunk) -> list[Example]:
    return [
        Example(
            id=f"{chunk.prefix}-{i}",
            text=f"Company {chunk.prefix}{i // chunk.repeat} reported that quarterly sales rose "
            f"by {i // chunk.repeat % 90 + 1} percent while its costs stayed level.",
        )
        for i in range(chunk.start, chunk.stop)
    ]


def config_of(chunk: Chunk) -> Any:
    if chunk.answers:
        return RecordedTeacher(kind="recorded", answers=Path(chunk.answers))
    pace = Pace(max_concurrency=chunk.concurrency, timeout_seconds=chunk.timeout)
    values = {"kind": chunk.kind, "model": MODELS[chunk.kind], "pace": pace.model_dump()}
    return TypeAdapter[Any](TeacherConfig).validate_python(values)


def take(client: redis.Redis, name: str) -> bytes:
    answer: Any = client.blpop([name])
    return bytes(answer[1])


def work(redis_url: str, mock_url: str) -> None:
    """One worker process: takes chunks from a list until it is told to end."""
    client = redis.Redis.from_url(redis_url, socket_timeout=None)
    settings = TeacherSettings(
        anthropic_api_key="k", anthropic_base_url=mock_url, vllm_base_url=mock_url
    )
    task = load_task("sentiment")
    teachers: dict[Chunk, Any] = {}
    for kind in MODELS:  # imports the backends
        run(build_teacher(config_of(Chunk(0, 0, kind=kind)), task, settings).close())
    client.rpush(RESULTS, json.dumps(_usage("ready")))
    while True:
        raw = take(client, TASKS)
        if raw == b"end":
            for teacher in teachers.values():
                run(teacher.close())
            return
        chunk = Chunk(**json.loads(raw))
        config = config_of(chunk)
        same = replace(chunk, start=0, stop=0, job="", prefix="")
        if same not in teachers:
            teachers[same] = build_teacher(config, task, settings)
        labelling = LabellingConfig(max_usd=chunk.max_usd)
        services = redis_services(client, chunk.job, labelling, config.pace)
        result = _usage("done")
        try:
            answers = label_examples(texts(chunk), teachers[same], labelling, services)
            result |= {
                "rows": len(answers),
                "good": sum(isinstance(a, TeacherAnswer) for a in answers),
                "cached": sum(a.cached for a in answers),
            }
        except JobPaused:
            result |= {"paused": True}
        client.rpush(RESULTS, json.dumps(result | {"after": _usage("after")}))


def _usage(what: str) -> dict[str, Any]:
    use = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) * 1024
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    cpu = use.ru_utime + use.ru_stime
    return {"what": what, "pid": os.getpid(), "cpu": cpu, "rss": resident, "peak": peak}


class Bench:
    """Redis, the mock and the workers of one scenario."""

    def __init__(self, mock: Path, workers: int, folder: Path, port: int, *options: str):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.redis_server = EmbeddedRedis(folder)
        self._mock = mock
        self._options = options
        self._workers = workers
        self.processes: list[Any] = []
        self.idle: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> "Bench":
        self.redis_server.start()
        self.client = redis.Redis.from_url(self.redis_server.url, socket_timeout=None)
        self.client.flushall()
        self.mock_process = subprocess.Popen(
            [sys.executable, str(self._mock), "--port", str(self.port), *self._options],
            stdout=subprocess.DEVNULL,
        )
        for _ in range(200):
            try:
                self.stats()
                break
            except OSError:
                time.sleep(0.05)
        for _ in range(self._workers):
            self.start_worker()
        for _ in range(self._workers):
            ready = json.loads(take(self.client, RESULTS))
            self.idle[ready["pid"]] = ready
        return self

    def start_worker(self) -> None:
        context = mp.get_context("spawn")
        process = context.Process(target=work, args=(self.redis_server.url, self.url), daemon=True)
        process.start()
        self.processes.append(process)

    def __exit__(self, *_: object) -> None:
        for _ in self.processes:
            self.client.rpush(TASKS, "end")
        for process in self.processes:
            process.join(10)
            process.kill()
        self.mock_process.kill()
        self.mock_process.wait()
        self.redis_server.stop()

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/stats", timeout=2) as answer:
            return dict(json.load(answer))

    def post(self, path: str, body: object = None) -> None:
        data = json.dumps(body or {}).encode()
        urllib.request.urlopen(urllib.request.Request(self.url + path, data=data)).read()

    def run(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        """Do the chunks; the clock runs from the first task to the last result."""
        start = time.perf_counter()
        self.client.rpush(TASKS, *(json.dumps(asdict(chunk)) for chunk in chunks))
        results = [json.loads(take(self.client, RESULTS)) for _ in chunks]
        return self.summary(results, time.perf_counter() - start)

    def summary(self, results: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
        """Rows, CPU and memory over all chunks."""
        last = {r["pid"]: r["after"] for r in results}
        first: dict[int, dict[str, Any]] = {}
        for r in results:
            first.setdefault(r["pid"], r)
        return {
            "seconds": round(seconds, 3),
            "rows": sum(r.get("rows", 0) for r in results),
            "good": sum(r.get("good", 0) for r in results),
            "cached": sum(r.get("cached", 0) for r in results),
            "paused": sum(r.get("paused", False) for r in results),
            "cpu_s": round(sum(last[p]["cpu"] - first[p]["cpu"] for p in last), 2),
            "rss_over_idle_mb": round(
                sum(last[p]["rss"] - self.idle.get(p, last[p])["rss"] for p in last) / 1e6, 1
            ),
            "peak_rss_mb": round(max(last[p]["peak"] for p in last) / 1e6, 1),
        }


def chunks_of(rows: int, size: int = CHUNK, **values: Any) -> list[Chunk]:
    return [Chunk(i, min(i + size, rows), **values) for i in range(0, rows, size)]


def bare(url: str, rows: int, kind: str, concurrency: int) -> float:
    """Rows a second of a client that does nothing but send the same bodies."""
    settings = TeacherSettings(anthropic_api_key="k", anthropic_base_url=url, vllm_base_url=url)
    chunk = Chunk(0, rows, kind=kind, prefix="bare")
    teacher: Any = build_teacher(config_of(chunk), load_task("sentiment"), settings)
    bodies = [json.dumps(teacher.question(e, 0).payload).encode() for e in texts(chunk)]
    run(teacher.close())
    return asyncio.run(_send(url, bodies, kind, concurrency))


async def _send(url: str, bodies: list[bytes], kind: str, concurrency: int) -> float:
    import aiohttp

    path = "/v1/messages" if kind == "claude" else "/v1/chat/completions"
    headers = {
        "content-type": "application/json",
        "anthropic-version": "2026-10-21",
        "authorization": "Bearer k",
    }
    queue = iter(bodies)

    async def sender(session: aiohttp.ClientSession) -> None:
        for body in queue:
            async with session.post(url + path, data=body) as answer:
                assert answer.status == 200, await answer.text()
                await answer.json()

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        start = time.perf_counter()
        await asyncio.gather(*(sender(session) for _ in range(concurrency)))
        return len(bodies) / (time.perf_counter() - start)


def cold(bench: Bench, kind: str) -> dict[str, Any]:
    """2,000 distinct rows, three rounds beside the bare client: the round of median share."""
    rounds = [_cold_round(bench, kind, prefix) for prefix in "abc"]
    rounds.sort(key=lambda found: float(found["share_of_bare"]))
    return rounds[1] | {"shares": [found["share_of_bare"] for found in rounds]}


def _cold_round(bench: Bench, kind: str, prefix: str) -> dict[str, Any]:
    limit = bare(bench.url, 2000, kind, 64)
    for key in bench.client.scan_iter("finstill:pace:*"):
        bench.client.delete(key)  # every round starts with the ramp
    bench.post("/reset")
    done = bench.run(chunks_of(2000, kind=kind, prefix=prefix))
    rate = done["rows"] / done["seconds"]
    return done | {
        "kind": kind,
        "bare_rate": round(limit, 1),
        "rate": round(rate, 1),
        "share_of_bare": round(rate / limit, 3),
        "r429": bench.stats()["r429"],
    }


def throttled(bench: Bench, kind: str) -> dict[str, Any]:
    """400 rows at a server that allows 32 where we may use 64."""
    bench.post("/config", {"cap": 32})
    bench.post("/reset")
    first = bench.run(chunks_of(400, 100, kind=kind, prefix="t"))
    r429 = bench.stats()["r429"]
    limit = bare(bench.url, 1000, kind, 32)
    bench.post("/reset")
    after = bench.run(chunks_of(2000, kind=kind, prefix="u"))
    rate = after["rows"] / after["seconds"]
    return {
        "kind": kind,
        "r429_of_400_rows": r429,
        "first_seconds": first["seconds"],
        "good": first["good"] + after["good"],
        "rate_after_ramp": round(rate, 1),
        "share_of_limit": round(rate / limit, 3),
        "r429_after_ramp": bench.stats()["r429"],
    }


def warm(bench: Bench, kind: str) -> dict[str, Any]:
    """100,000 cached rows on one worker, and one new row among them."""
    _fill(bench, Chunk(0, 100_000, kind=kind, prefix="w"))
    bench.post("/reset")
    done = bench.run(chunks_of(100_000, 1000, kind=kind, prefix="w"))
    asked_warm = bench.stats()["requests"]
    bench.run(chunks_of(100_001, 1000, kind=kind, prefix="w"))
    return done | {"asked_warm": asked_warm, "asked_one_new": bench.stats()["requests"]}


def _fill(bench: Bench, chunk: Chunk) -> None:
    """Put one real reply of the mock under the keys of all rows."""
    settings = TeacherSettings(
        anthropic_api_key="k", anthropic_base_url=bench.url, vllm_base_url=bench.url
    )
    teacher: Any = build_teacher(config_of(chunk), load_task("sentiment"), settings)
    examples = texts(chunk)
    reply = run(teacher.ask(teacher.question(examples[0], 0)))
    run(teacher.close())
    entry = Entry(reply, teacher.name, teacher.provider, teacher.terms)
    cache = RedisCache(bench.client)
    for start in range(0, len(examples), 1000):
        block = examples[start : start + 1000]
        cache.store({teacher.question(e, 0).key: entry for e in block}, "fill")


def duplicates(bench: Bench, kind: str) -> dict[str, Any]:
    """Every sentence twice; and two jobs over the same rows at once."""
    bench.post("/reset")
    twice = bench.run(chunks_of(1000, kind=kind, prefix="d", repeat=2))
    asked_twice = bench.stats()["requests"]
    bench.post("/reset")
    both = [c for job in "xy" for c in chunks_of(1000, 125, kind=kind, prefix="e", job=job)]
    mixed = [c for pair in zip(both[:8], both[8:], strict=True) for c in pair]
    jobs = bench.run(mixed)
    return {
        "rows_twice": twice["rows"],
        "asked_twice": asked_twice,
        "rows_two_jobs": jobs["rows"],
        "asked_two_jobs": bench.stats()["requests"],
    }


def budget(bench: Bench, kind: str) -> dict[str, Any]:
    """8 workers with money for half the rows."""
    bench.post("/reset")
    probe = bench.run(chunks_of(100, kind="claude", prefix="p", max_usd=1.0, job="probe"))
    spent = int(bench.client.hget("finstill:purse:probe", "spent") or 0) / 1e9
    limit = spent / probe["rows"] * 1000
    done = bench.run(chunks_of(2000, 125, kind="claude", prefix="m", max_usd=limit, job="half"))
    paid = int(bench.client.hget("finstill:purse:half", "spent") or 0) / 1e9
    return {"limit_usd": limit, "spent_usd": paid, "share": round(paid / limit, 4), **done}


def faults(bench: Bench, kind: str) -> dict[str, Any]:
    """Every tenth request fails and one row always does: one row is lost."""
    bench.post("/config", {"fail_every": 10, "poison": "Company f123 "})
    bench.post("/reset")
    done = bench.run(chunks_of(2000, kind=kind, prefix="f"))
    return done | {"server_errors": bench.stats()["r5xx"], "answered": bench.stats()["ok"]}


def killed(bench: Bench, kind: str) -> dict[str, Any]:
    """`kill -9` of a worker at half; the rows are given to the others again."""
    bench.post("/reset")
    chunks = chunks_of(2000, kind=kind, prefix="k")
    bench.client.rpush(TASKS, *(json.dumps(asdict(chunk)) for chunk in chunks))
    while bench.stats()["ok"] < 1000:
        time.sleep(0.01)
    bench.processes[0].kill()
    bench.processes[0].join()
    bench.start_worker()
    start = time.perf_counter()
    bench.client.rpush(TASKS, *(json.dumps(asdict(chunk)) for chunk in chunks))
    wanted = 2 * len(chunks)  # less the killed worker's own; the new worker says "ready" once
    results = [json.loads(take(bench.client, RESULTS)) for _ in range(wanted)]
    done = [found for found in results if found["what"] == "done"][-len(chunks) :]
    found = bench.summary(done, time.perf_counter() - start)
    return found | {"answered": bench.stats()["ok"], "paid_twice": bench.stats()["ok"] - 2000}


def recorded(bench: Bench, kind: str) -> dict[str, Any]:
    """1,000,000 rows from a file of recorded answers, cached as all others: memory."""
    path = Path(tempfile.mkdtemp()) / "answers.jsonl"
    why = (
        "The sentence reports that quarterly sales rose while costs stayed level, a better margin."
    )
    with path.open("w") as stream:
        for i in range(1_000_000):
            row = {"id": f"r-{i}", "label": "positive", "rationale": f"{why} Row {i}."}
            stream.write(json.dumps({**row, "confidence": 0.9}) + "\n")
    chunks = chunks_of(1_000_000, 1000, prefix="r", answers=str(path))
    done = bench.run(chunks)
    memory: Any = bench.client.info("memory")
    path.unlink()
    return done | {"redis_peak_rss_mb": round(memory["used_memory_rss"] / 1e6, 1)}


SCENARIOS: dict[str, tuple[Callable[[Bench, str], dict[str, Any]], int]] = {
    "cold": (cold, 4),
    "throttled": (throttled, 2),
    "warm": (warm, 1),
    "duplicates": (duplicates, 4),
    "budget": (budget, 8),
    "faults": (faults, 2),
    "killed": (killed, 2),
    "recorded": (recorded, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS))
    parser.add_argument("--mock", type=Path, required=True, help="path of mock_server.py")
    parser.add_argument("--kind", choices=sorted(MODELS), default="vllm")
    parser.add_argument("--workers", type=int, help="worker processes (default: per scenario)")
    parser.add_argument("--port", type=int, default=18090)
    options = parser.parse_args()
    for place, name in enumerate(options.scenarios):
        scenario, workers = SCENARIOS[name]
        with tempfile.TemporaryDirectory() as folder:
            count = options.workers or workers
            with Bench(options.mock, count, Path(folder), options.port + place) as bench:
                found = scenario(bench, options.kind)
                print(json.dumps({"scenario": name, "workers": count, **found}), flush=True)


if __name__ == "__main__":
    main()
