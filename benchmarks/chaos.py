"""
A day in short: clients submit mixed jobs over HTTP while workers, API and Redis are killed.

    python benchmarks/chaos.py --mock MOCK_SERVER.py --minutes 10
    python benchmarks/chaos.py --minutes 1 --jobs 24 --clients 4      # with the tests' wire double

`finstill up` runs on a free port with a vLLM teacher of ours. Until the minutes are over, every
nine seconds on average something is killed with SIGKILL: a worker with its children, one process of
it, the API, Redis, or `finstill up` itself, which is then started again. At the end every job must
be done, cancelled or failed with a reason; no answer may be paid twice beyond what was in flight
when something was killed; and no process, lease, lock or message may be left, else exit code 1.
"""

import argparse
import fcntl
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
VICTIMS = {"label": 4, "label, one process": 3, "train": 3, "train, one process": 2, "api": 3,
           "redis": 2, "up": 1}  # fmt: skip
ROWS, TEST_ROWS, CHUNK_ROWS = 40, 4, 10
ENDED = ("done", "cancelled", "failed", "paused")
GRACE_SECONDS = 1200.0


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(attempt: Any, what: str, seconds: float) -> None:
    """Until true, in so many seconds of this process's own. Raises TimeoutError."""
    for _ in range(int(5 * seconds)):  # time in which the machine stopped us all does not count
        if attempt():
            return
        time.sleep(0.2)
    raise TimeoutError(f"waited {seconds:.0f} s in vain until {what}")


class Mock:
    """The given mock server as the teacher."""

    def __init__(self, script: Path):
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        command = [sys.executable, str(script), "--port", str(port), "--cap", "100000",
                   "--latency", "0.3", "--jitter", "0.5"]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(lambda: self._answers(), "the mock answers", 20)

    def _answers(self) -> bool:
        try:
            return bool(self._stats())
        except OSError:
            return False

    def _stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/stats", timeout=5) as answer:
            return dict(json.load(answer))

    def counts(self) -> tuple[int, int, int]:
        """Answers given, different questions among them, and questions under way."""
        now = self._stats()
        return now["ok"], now["distinct_prompts"], now["inflight"]

    def stop(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()


class Double:
    """The tests' own wire double as the teacher."""

    def __init__(self) -> None:
        from tests.doubles.wire_double import WireDouble

        self._double = WireDouble().__enter__()
        self._double.latency = 0.3
        self._double.models.add("mock-teacher")
        self.url = self._double.url

    def counts(self) -> tuple[int, int, int]:
        """Answers given, different questions among them, and questions under way."""
        paid = self._double.paid.copy()
        return paid.total(), len(paid), self._double._in_flight

    def stop(self) -> None:
        """End the server."""
        self._double.__exit__()


@dataclass
class Site:
    """`finstill up` in a folder, and everything it started."""

    folder: Path
    teacher: str
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None
    starts: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """Of `up` and all below it; their state folder names them in /proc."""
        plain = {k: v for k, v in os.environ.items() if k != "REDIS_URL"}
        return {**plain, "FINSTILL_STATE": str(self.folder / "state"), "FINSTILL_THREADS": "1",
                "FINSTILL_RUNS": str(self.folder / "runs"),
                "VLLM_BASE_URL": f"{self.teacher}/v1", "VLLM_API_KEY": "test-key",
                "HF_HUB_OFFLINE": "1"}  # fmt: skip

    @property
    def redis_url(self) -> str:
        """The embedded server's address."""
        return str(json.loads((self.folder / "state" / "stack.json").read_text())["redis_url"])

    def start(self) -> None:
        """`finstill up`, unless it runs."""
        if self.process and self.process.poll() is None:
            return
        self.starts += 1
        command = [sys.executable, "-m", "workers", "up", "--port", str(self.port)]
        with (self.folder / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )

    def processes(self) -> dict[int, str]:
        """Process id -> what it is, for everything of this site."""
        state = str(self.folder / "state").encode()
        mark, found = b"FINSTILL_STATE=" + state, {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                command = (place / "cmdline").read_bytes()
                # the server writes its title over its environment
                if b"-server unixsocket:" + state in command:
                    found[int(place.name)] = "redis"
                elif mark in (place / "environ").read_bytes().split(b"\0"):
                    found[int(place.name)] = _role(command)
            except OSError:
                continue
        return {pid: role for pid, role in found.items() if role}

    def kill(self, victim: str, dice: random.Random) -> bool:
        """SIGKILL it; False when it is not there just now."""
        role, _, one = victim.partition(", ")
        pids = [pid for pid, name in self.processes().items() if name == role]
        for pid in [dice.choice(pids)] if one and pids else pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return bool(pids)


def _role(cmdline: bytes) -> str:
    words = cmdline.decode(errors="replace").split("\0")
    if "worker" in words:
        return "train" if any("train" in word for word in words) else "label"
    return "api" if "serve" in words else "up" if "up" in words else " ".join(words).strip()


class Client(threading.Thread):
    """Submits its jobs over the time there is, and follows each to its end."""

    def __init__(self, site: Site, token: str, name: int, kinds: list[str], seconds: float):
        super().__init__(daemon=True)
        self._site, self._token, self._name = site, token, name
        self._kinds, self._pause = kinds, 0.8 * seconds / max(1, len(kinds))
        self._dice = random.Random(name)
        self.jobs: dict[str, str] = {}
        self.ends: dict[str, dict[str, Any]] = {}
        self.retries: Counter[str] = Counter()
        self.unexplained: list[str] = []
        self.fault: BaseException | None = None

    def run(self) -> None:
        """Never gives up on a request before the end of the whole."""
        try:
            for number, kind in enumerate(self._kinds):
                self._one(number, kind)
                time.sleep(self._pause * (0.5 + self._dice.random()))
            while len(self.ends) < len(self.jobs):
                for job_id in self.jobs.keys() - self.ends.keys():
                    job = self.call(f"/v1/jobs/{job_id}")
                    if job["state"] in ENDED:
                        self.ends[job_id] = job
                time.sleep(1)
        except BaseException as error:
            self.fault = error
            say(f"client {self._name} gave up: {error!r}")

    def _one(self, number: int, kind: str) -> None:
        key = {"Idempotency-Key": f"chaos-{self._name}-{number}"}
        judged = self._judged() if kind == "compare" else []
        if judged:
            body = {"compare": {"runs": self._dice.sample(judged, min(2, len(judged)))}}
            self.jobs[self.call("/v1/jobs", json.dumps(body).encode(), key)["id"]] = kind
            return
        rows = "".join(json.dumps(row) + "\n" for row in self._rows(number, kind))
        upload = self.call("/v1/datasets?format=jsonl", rows.encode(), octets=True)["id"]
        body = {"inline": _config(f"upload:{upload}", kind), "until": UNTIL.get(kind, "label")}
        job = self.call("/v1/jobs", json.dumps(body).encode(), key)
        self.jobs[job["id"]] = kind
        if kind in ("cancel", "cancel, resume"):
            time.sleep(3 * self._dice.random())
            self.call(f"/v1/jobs/{job['id']}/cancel", b"", fine=(409,))
        if kind == "cancel, resume":
            wait_for(lambda: self.call(f"/v1/jobs/{job['id']}")["state"] in ENDED,
                     f"{job['id']} is cancelled", GRACE_SECONDS)  # fmt: skip
            self.call(f"/v1/jobs/{job['id']}/resume", b"", fine=(409,))

    def _judged(self) -> list[str]:
        """Runs with a judged system; two of them were judged on different texts, which fails."""
        runs = self.call("/v1/runs?limit=100")["items"]
        return [run["id"] for run in runs if run["reported"]][: self._dice.randint(1, 2)]

    def _rows(self, number: int, kind: str) -> list[dict[str, Any]]:
        place = f"client {self._name}, job {number}"
        rows = [{"id": f"r{i}", "text": f"Sales rose by {i} million, told {place}.",
                 "split": "train", "label": None} for i in range(ROWS)]  # fmt: skip
        for i in range(TEST_ROWS):
            label = "splendid" if kind == "broken" else ("positive", "negative")[i % 2]
            rows.append({"id": f"t{i}", "text": f"Orders changed by {i}, told {place}.",
                         "split": "test", "label": label})  # fmt: skip
        return rows

    def call(
        self,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        fine: tuple[int, ...] = (),
        octets: bool = False,
    ) -> Any:
        """One request, repeated while the service is away; `fine` refusals give an empty answer."""
        kind = "application/octet-stream" if octets else "application/json"
        every = {"Authorization": f"Bearer {self._token}", "Content-Type": kind, **(headers or {})}
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            request = urllib.request.Request(
                f"http://127.0.0.1:{self._site.port}{path}", body, every
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                told = _body(error)
                if error.code in fine:
                    return {}
                if error.code < 500 and error.code not in (409, 429):
                    raise RuntimeError(f"{path}: {error.code} {told}") from error
                self.retries[str(error.code)] += 1
                if error.code >= 500 and error.code != 503:
                    self.unexplained.append(f"{path}: {error.code} {told}")
                    say(self.unexplained[-1])
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.retries[type(error).__name__] += 1
            time.sleep(0.3)
        raise TimeoutError(path)


def _body(error: urllib.error.HTTPError) -> str:
    try:
        return error.read().decode()[:300]
    except (OSError, ValueError, http.client.HTTPException) as cut:
        return f"(its body was cut off: {cut!r})"


# two runs were judged on different texts, which a comparison refuses with a reason
ALLOWED = {"broken": {"failed"}, "cancel": {"cancelled", "done"}, "compare": {"done", "failed"}}
UNTIL = {"train": "train", "report": "report", "broken": "report"}


def _config(upload: str, kind: str) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "name": f"chaos-{kind.partition(',')[0]}",
        "task": "sentiment",
        "data": {"kind": "jsonl", "path": upload, "split": {"kind": "column"},
                 "validation_share": 0.1},
        "teacher": {"kind": "vllm", "model": "mock-teacher", "pace": {"max_concurrency": 8}},
        "labelling": {"chunk_rows": CHUNK_ROWS, "smoke_rows": 4, "probe": {"rows": 0}},
        "baselines": {"majority": {"kind": "majority"}},
        "evaluation": {"bootstrap": 100, "rationale_rows": 0},
    }  # fmt: skip
    if kind in ("train", "report"):
        tiny = {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 16, "vocabulary": 300}
        tree["student"] = {"architecture": "seq2seq", "model": "tiny-random", "tiny": tiny}
        tree["training"] = {"max_steps": 20, "evaluations": 1, "checkpoint_every_steps": 5}
    return tree


def mixture(jobs: int, dice: random.Random) -> list[str]:
    """Nearly half label only; the rest train, report, compare, are cancelled, resumed or broken."""
    shares = {"train": 0.1, "report": 0.1, "compare": 0.1, "cancel": 0.15, "cancel, resume": 0.1,
              "broken": 0.05}  # fmt: skip
    kinds = [kind for kind, share in shares.items() for _ in range(max(1, round(share * jobs)))]
    kinds = (kinds + ["label"] * jobs)[:jobs]
    dice.shuffle(kinds)
    return kinds


@dataclass
class Killer:
    """Kills at random for a time, and starts `up` again where it was the victim."""

    site: Site
    teacher: "Mock | Double"
    dice: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0

    def run(self, seconds: float) -> None:
        """One kill every nine seconds on average; then all is left to itself."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            time.sleep(self.dice.uniform(4, 14))
            victim = self.dice.choices(list(VICTIMS), list(VICTIMS.values()))[0]
            under_way = self.teacher.counts()[2]
            if self.site.kill(victim, self.dice):
                self.kills[victim] += 1
                self.in_flight += under_way
                say(f"killed {victim}, {under_way} questions in flight")
            if victim == "up":
                time.sleep(self.dice.uniform(0, 3))
            self.site.start()


def leftovers(redis_url: str) -> dict[str, int]:
    """Keys that must not outlive the jobs, and messages that nobody took."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        counts = {
            "stage leases": len(list(client.scan_iter("finstill:lease:*", 1000))),
            "question leases": len(list(client.scan_iter("finstill:l:*", 1000))),
            "locks": len(list(client.scan_iter("finstill:submitting:*", 1000))),
            "unacknowledged": int(client.hlen("finstill:celery:unacked")),
        }
        for queue in ("label", "train", "evaluate"):
            counts[f"queue {queue}"] = int(client.llen(f"finstill:celery:{queue}"))
    return {name: count for name, count in counts.items() if count}


def judged(site: Site, clients: list[Client]) -> tuple[dict[str, Any], list[str]]:
    """How the jobs ended, and what is wrong with any of that."""
    from common.data.store import read_answers

    wrong = [f"client {c.name}: {c.fault!r}" for c in clients if c.fault]
    wrong += [line for client in clients for line in client.unexplained]
    states: Counter[str] = Counter()
    for client in clients:
        wrong += [f"{job} never ended" for job in client.jobs.keys() - client.ends.keys()]
        for job_id, job in client.ends.items():
            kind, state, fault = client.jobs[job_id], job["state"], job["fault"]
            states[f"{kind}: {state}"] += 1
            allowed = ALLOWED.get(kind, {"done"})
            if state not in allowed or (state == "failed" and not (fault and fault["message"])):
                wrong.append(f"{job_id} ({kind}) is {state}: {fault and fault['message']}")
            folder = site.folder / "runs" / job_id
            compared = job["kind"] == "compare"
            if state == "done" and not compared:
                ids = [answer.example_id for answer in
                       read_answers(folder / "labels" / "answers.parquet")]  # fmt: skip
                if len(ids) != ROWS or len(set(ids)) != ROWS:
                    wrong.append(f"{job_id}: {len(ids)} answers of {len(set(ids))} rows")
            reported = compared or kind == "report"
            if state == "done" and reported and not (folder / "report.html").is_file():
                wrong.append(f"{job_id}: no report")
    return dict(sorted(states.items())), wrong


def stopped(site: Site) -> list[str]:
    """Ctrl-C; what is still there afterwards."""
    assert site.process
    site.process.send_signal(signal.SIGINT)
    try:
        wait_for(lambda: site.process is None or site.process.poll() is not None, "up ends", 90)
    except TimeoutError:
        return ["finstill up did not end within 90 s of Ctrl-C"]
    deadline = time.monotonic() + 15
    while (left := site.processes()) and time.monotonic() < deadline:
        time.sleep(0.5)
    wrong = [f"process {pid} ({role}) is left" for pid, role in left.items()]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    with (site.folder / "state" / "stack.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wrong.append("stack.lock is held")
    runs = site.folder / "runs"
    strays = [p for p in runs.rglob("*") if p.name.startswith((".incoming", ".tmp"))]
    return wrong + [f"half-written file {p.relative_to(runs)} is left" for p in strays]


def make_token(site: Site) -> str:
    """A token whose rate does not limit the clients."""
    command = [sys.executable, "-m", "workers", "token", "create", "chaos", "--scope", "submit",
               "--requests-per-minute", "10000000"]  # fmt: skip
    environment = {**site.environment, "REDIS_URL": site.redis_url}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    return done.stdout.decode().strip()


def say(what: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)


def ready(site: Site) -> bool:
    """Whether jobs are taken."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{site.port}/ready", timeout=5):
            return True
    except OSError:
        return False


def main() -> None:
    """Run the day, print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--mock", type=Path, help="path of mock_server.py; else the wire double")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    teacher: Mock | Double = Mock(options.mock) if options.mock else Double()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        site = Site(folder, teacher.url)
        try:
            outcome, wrong = day(site, teacher, options)
        finally:
            for pid in site.processes():
                os.kill(pid, signal.SIGKILL)
            teacher.stop()
    if options.json:
        print(json.dumps({**outcome, "wrong": wrong}))
    else:
        for name, value in outcome.items():
            print(f"{name:<44} {value}")
        print("\n".join(f"WRONG: {line}" for line in wrong) or "nothing wrong")
    sys.exit(bool(wrong))


def day(site: Site, teacher: Mock | Double, options: Any) -> tuple[dict[str, Any], list[str]]:
    """Clients and killer side by side; then quiet, a look at everything, and the end."""
    dice, seconds = random.Random(options.seed), 60 * options.minutes
    site.start()
    wait_for(lambda: ready(site), "the service is ready", 120)
    token, kinds = make_token(site), mixture(options.jobs, dice)
    begun = time.monotonic()
    clients = [
        Client(site, token, n, kinds[n :: options.clients], seconds) for n in range(options.clients)
    ]
    for client in clients:
        client.start()
    killer = Killer(site, teacher, dice)
    killer.run(seconds)
    wait_for(lambda: ready(site), "the service is ready again", 120)
    say("no more kills")
    deadline = time.monotonic() + GRACE_SECONDS
    for client in clients:
        client.join(max(1.0, deadline - time.monotonic()))
    took = time.monotonic() - begun
    states, wrong = judged(site, clients)
    try:
        wait_for(lambda: not leftovers(site.redis_url), "leases and messages are gone", 60)
    except TimeoutError:
        wrong.append(f"left in Redis: {leftovers(site.redis_url)}")
    answers, different, _ = teacher.counts()
    if answers - different > killer.in_flight:
        wrong.append(f"{answers - different} answers paid twice, {killer.in_flight} in flight")
    wrong += stopped(site)
    retries = sum((client.retries for client in clients), Counter[str]())
    return {
        "jobs submitted": sum(len(client.jobs) for client in clients),
        "jobs by kind and end": states,
        "kills": dict(killer.kills),
        "starts of finstill up": site.starts,
        "requests repeated by clients": dict(retries),
        "answers paid": answers,
        "different questions": different,
        "answers paid twice": answers - different,
        "in flight at kills, summed": killer.in_flight,
        "minutes until the last job ended": round(took / 60, 2),
    }, wrong


if __name__ == "__main__":
    main()
