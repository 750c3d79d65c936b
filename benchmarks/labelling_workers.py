"""
Labelling jobs as users queue them: real Celery workers, a real Redis, a mock service over HTTP.

    python -m benchmarks.labelling_workers --mock MOCK_SERVER.py [cold two_jobs killed ...]

MOCK_SERVER.py speaks the Anthropic and OpenAI APIs with 100 ms latency and 64 requests in flight,
429 above. Each scenario submits jobs through the queue, hurts something on the way, and counts
what the service was asked and what the job has. Prints one JSON object a scenario. The pure rate
beside a bare client is benchmarks/labelling.py.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.labelling import bare
from common.config import RunConfig, load_config
from workers.client import Client
from workers.embedded_redis import EmbeddedRedis
from workers.job_records import Job
from workers.registry import living_workers
from workers.services import Settings, settings_from_environment
from workers.stack import child_environment

ROOT = Path(__file__).resolve().parents[1]
ROWS = 2000
CONFIG = """
name: {name}
task: sentiment
data: {{kind: jsonl, path: {path}, duplicates: keep, split: {{kind: train_only}}}}
teacher: {{kind: claude, model: claude-haiku-5-5, pace: {{timeout_seconds: 5}}}}
labelling: {{probe: {{rows: 0}}}}
student: {{architecture: seq2seq, model: tiny-random, tiny: {{family: t5}}}}
"""


class Service:
    """Mock, Redis and workers of one scenario in one folder."""

    def __init__(self, mock: Path, folder: Path, port: int, concurrency: int):
        self.url = f"http://127.0.0.1:{port}"
        self.folder, self.concurrency = folder, concurrency
        self.redis = EmbeddedRedis(folder / "redis")
        self._mock = [sys.executable, str(mock), "--port", str(port)]
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Service":
        self.redis.start()
        self.mock = subprocess.Popen(self._mock, stdout=subprocess.DEVNULL)
        self.settings: Settings = replace(
            settings_from_environment(),
            redis_url=self.redis.url,
            runs=self.folder / "runs",
            state=self.folder,
            threads=1,
            lease_seconds=3.0,
            anthropic_api_key="k",
            anthropic_base_url=self.url,
        )
        self.start_worker()
        self.client = Client(self.settings)
        while len(living_workers(self.client.redis)) < 1:
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        for worker in self.workers:
            self.kill(worker)
        self.mock.kill()
        self.mock.wait()
        self.redis.stop()

    def start_worker(self) -> None:
        """One `finstill worker` with its processes, serving all queues."""
        environment = {
            **child_environment(self.settings),
            "ANTHROPIC_API_KEY": "k",
            "ANTHROPIC_BASE_URL": self.url,
            "FINSTILL_PARENT": "",
            "FINSTILL_VISIBILITY_SECONDS": "4",
            "FINSTILL_LEASE_SECONDS": "3",
        }
        command = [sys.executable, "-m", "workers", "worker"]
        command += ["--queues", "label,train,evaluate", "--concurrency", str(self.concurrency)]
        log = (self.folder / f"worker-{len(self.workers)}.log").open("wb")
        self.workers.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        )

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """SIGKILL to the worker and all its processes."""
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()

    def post(self, path: str, body: object = None) -> None:
        data = json.dumps(body or {}).encode()
        urllib.request.urlopen(urllib.request.Request(self.url + path, data=data)).read()

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/stats", timeout=5) as answer:
            return dict(json.load(answer))

    def config(self, name: str, rows: int = ROWS, *overrides: str, same: str = "") -> RunConfig:
        """A labelling config over made-up rows; `same` names the texts another job has too."""
        path = self.folder / f"{name}.jsonl"
        with path.open("w") as stream:
            for i in range(rows):
                text = (
                    f"Company {same or name}{i} reported that quarterly sales rose by {i % 90 + 1} "
                    "percent while its costs stayed level."
                )
                stream.write(json.dumps({"id": f"{name}-{i}", "text": text}) + "\n")
        file = self.folder / f"{name}.yaml"
        file.write_text(CONFIG.format(name=name, path=path))
        return load_config(file, list(overrides))

    def submit(self, config: RunConfig) -> str:
        return self.client.submit(config, "label").run_id

    def wait(self, run_id: str, seconds: float = 300.0) -> Job:
        deadline = time.monotonic() + seconds
        while not (job := self.client.jobs.get(run_id)).ended:
            if time.monotonic() > deadline:
                raise SystemExit(f"the job has not ended after {seconds} s: {job}")
            time.sleep(0.1)
        return job

    def spent(self, run_id: str) -> float:
        """US$ the job has paid when it has ended."""
        self.wait(run_id)
        spent: Any = self.client.redis.hget(f"finstill:purse:{run_id}", "spent")
        return int(spent or 0) / 1e9

    def asked(self, at_least: int) -> None:
        """Wait until the service has answered so many."""
        while self.stats()["ok"] < at_least:
            time.sleep(0.02)

    def found(self, job: Job) -> dict[str, Any]:
        """State, rows, what the service saw, and how long the asking took."""
        label = next(stage for stage in job.stages if stage.name == "label")
        seconds = (label.finished_at or 0) - (label.started_at or 0)
        stats = self.stats()
        counts = ("rows", "answered", "unanswered", "cached", "failed")
        return {
            "state": job.state.value,
            "label_seconds": round(seconds, 2),
            **{name: job.counters[name] for name in counts if name in job.counters},
            "service_ok": stats["ok"],
            "r429": stats["r429"],
            "r5xx": stats["r5xx"],
        }


def cold(service: Service) -> dict[str, Any]:
    """A job of distinct rows on workers that have worked before, beside a bare client."""
    service.wait(service.submit(service.config("first", 400, "labelling.chunk_rows=20")))
    limit = bare(service.url, ROWS, "claude", 64)
    service.post("/reset")
    found = service.found(service.wait(service.submit(service.config("cold"))))
    rate = ROWS / found["label_seconds"]
    return {**found, "bare_rate": round(limit, 1), "share_of_bare": round(rate / limit, 3)}


def two_jobs(service: Service) -> dict[str, Any]:
    """Two jobs over the same texts at once: paid once."""
    ids = [service.submit(service.config(name, ROWS, same="s")) for name in ("left", "right")]
    jobs = [service.wait(run_id) for run_id in ids]
    return {**service.found(jobs[0]), "second": service.found(jobs[1])}


def killed(service: Service) -> dict[str, Any]:
    """SIGKILL of the worker with all its processes at half; another one goes on."""
    run_id = service.submit(service.config("killed"))
    service.asked(ROWS // 2)
    in_flight = service.stats()["inflight"]
    service.kill(service.workers[0])
    service.start_worker()
    found = service.found(service.wait(run_id))
    return {**found, "in_flight": in_flight, "paid_twice": found["service_ok"] - ROWS}


def redis_killed(service: Service) -> dict[str, Any]:
    """SIGKILL of Redis at half; it is started again three seconds later."""
    run_id = service.submit(service.config("redis"))
    service.asked(ROWS // 2)
    os.kill(int(service.client.redis.info("server")["process_id"]), signal.SIGKILL)
    time.sleep(3)
    service.redis.start()
    found = service.found(service.wait(run_id))
    return {**found, "paid_twice": found["service_ok"] - ROWS}


def errors(service: Service) -> dict[str, Any]:
    """Every tenth request is answered 529, and one row always."""
    service.post("/config", {"fail_every": 10, "poison": "Company bad77 "})
    return service.found(service.wait(service.submit(service.config("bad")), 600))


def bursts(service: Service) -> dict[str, Any]:
    """For two seconds in five the service takes one request at a time."""
    run_id = service.submit(service.config("bursts"))
    while not service.client.jobs.get(run_id).ended:
        for cap, seconds in ((64, 3.0), (1, 2.0)):
            service.post("/config", {"cap": cap})
            time.sleep(seconds)
    service.post("/config", {"cap": 64})
    return service.found(service.wait(run_id))


def budget(service: Service) -> dict[str, Any]:
    """Money for half the rows: the job pauses, and goes on when it has more."""
    most = service.spent(service.submit(service.config("probe", 100))) / 100 * ROWS / 2
    overrides = (f"labelling.max_usd={most}", "labelling.chunk_rows=125")
    run_id = service.submit(service.config("budget", ROWS, *overrides))
    spent = service.spent(run_id)
    found = service.found(service.client.jobs.get(run_id))
    return {**found, "limit_usd": most, "spent_usd": spent, "share": round(spent / most, 4)}


SCENARIOS: dict[str, Callable[[Service], dict[str, Any]]] = {
    function.__name__: function
    for function in (cold, two_jobs, killed, redis_killed, errors, bursts, budget)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS))
    parser.add_argument("--mock", type=Path, required=True, help="path of mock_server.py")
    parser.add_argument("--concurrency", type=int, default=4, help="processes of the worker")
    parser.add_argument("--port", type=int, default=18190)
    options = parser.parse_args()
    for place, name in enumerate(options.scenarios):
        with tempfile.TemporaryDirectory() as folder:
            port = options.port + place
            with Service(options.mock, Path(folder), port, options.concurrency) as service:
                found = SCENARIOS[name](service)
        print(json.dumps({"scenario": name, **found}), flush=True)


if __name__ == "__main__":
    main()
