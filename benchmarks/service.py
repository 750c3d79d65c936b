"""
How fast the HTTP service is: GET /v1/jobs at a fixed rate while a labelling job runs, and predict.

    python benchmarks/service.py                 # with a stack of its own on a free port
    python benchmarks/service.py --seconds 20 --json

The load comes from a process of its own, open loop: requests are sent when due, whether or
not earlier ones have come back, and a request's time counts from when it was due. Client, server
and workers share this machine's cores, so the figures are what is left to the server. Predict is
measured in and out of process in turns, with one torch thread each: the ratio is their median.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WARM_UP_SECONDS = 1.0


def main() -> None:
    """Start `finstill up`, make a run, measure, stop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rate", type=int, default=500, help="GET /v1/jobs a second")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", choices=["jobs", "predict"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the stack in any case
    with tempfile.TemporaryDirectory() as folder:
        process, address = start(Path(folder))
        try:
            token = make_token(Path(folder))
            figures: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
            if options.only != "jobs":
                run_id = make_run(address, token)
                figures |= measure_predict(address, token, run_id, Path(folder))
            if options.only != "predict":
                figures |= measure_jobs(address, token, options.rate, options.seconds)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<34} {value:>10.3f}" if isinstance(value, float) else f"{name:<34} {value}")


def environment(folder: Path) -> dict[str, str]:
    """A stack of this benchmark's own."""
    plain = {k: v for k, v in os.environ.items() if k != "REDIS_URL"}
    return {**plain, "FINSTILL_STATE": str(folder / "state"),
            "FINSTILL_RUNS": str(folder / "runs"), "FINSTILL_THREADS": "1"}  # fmt: skip


def start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """`finstill up` on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "up.log").open("wb")
    command = [sys.executable, "-m", "workers", "up", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(folder), stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    wait_for(lambda: reached(f"{address}/ready"))
    return process, address


def make_token(folder: Path) -> str:
    """A token whose rate does not limit the measurement."""
    command = [sys.executable, "-m", "workers", "token", "create", "benchmark", "--scope", "submit",
               "--requests-per-minute", "10000000"]  # fmt: skip
    environ = environment(folder)
    environ["REDIS_URL"] = json.loads((folder / "state" / "stack.json").read_text())["redis_url"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, check=True)
    return done.stdout.decode().strip()


def make_run(address: str, token: str) -> str:
    """The demo's student, trained for two epochs: its speed does not depend on how long."""
    body = {"config": "demo", "until": "train", "overrides": {"training.epochs": 2}}
    job = call(address, token, "/v1/jobs", body)
    path = f"/v1/jobs/{job['id']}"
    wait_for(lambda: call(address, token, path)["state"] in ("done", "failed"), 600)
    assert call(address, token, path)["state"] == "done"
    return str(job["id"])


def measure_predict(address: str, token: str, run_id: str, folder: Path) -> dict[str, float]:
    """Texts a second through HTTP in batches of 32, against the same batches in a process."""
    texts = [f"Operating profit of division {i} rose to EUR {i}.5 million." for i in range(32)]
    code = (
        "import sys, time, json; from pathlib import Path; import torch\n"
        "torch.set_num_threads(1)\n"
        "from student.predict import Predictor\n"
        "p = Predictor.load(Path(sys.argv[1])); t = json.loads(sys.argv[2])\n"
        "[p.predict(t) for _ in range(5)]\n"
        "b = time.perf_counter(); n = 0\n"
        "while time.perf_counter() - b < 4: p.predict(t); n += len(t)\n"
        "print(n / (time.perf_counter() - b))"
    )
    model = folder / "runs" / run_id / "systems" / "student" / "model"
    command = [sys.executable, "-c", code, str(model), json.dumps(texts)]
    path, body = f"/v1/runs/{run_id}/predict", {"texts": texts}
    for _ in range(5):
        call(address, token, path, body)
    inside, through, load = [], [], []
    for _ in range(3):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        inside.append(float(done.stdout))
        begun = time.process_time()
        rate = asyncio.run(closed_loop(address, token, path, body, clients=4, seconds=4))
        through.append(32 * rate)
        load.append(1e6 * (time.process_time() - begun) / (4 * 32 * rate))
    ratios = [over / within for over, within in zip(through, inside, strict=True)]
    return {
        "predict in process, texts/s": statistics.median(inside),
        "predict over HTTP, texts/s": statistics.median(through),
        "the client's own CPU, us/text": statistics.median(load),
        "ratio, lowest": min(ratios),
        "ratio": statistics.median(ratios),
    }


async def closed_loop(
    address: str, token: str, path: str, body: Any, clients: int, seconds: float
) -> float:
    """Requests a second with so many clients that each wait for their answer."""
    import httpx2

    headers = {"Authorization": f"Bearer {token}"}
    done, ends = 0, time.perf_counter() + seconds

    async def ask(session: Any) -> None:
        nonlocal done
        while time.perf_counter() < ends:
            answer = await session.post(path, json=body)
            assert answer.status_code == 200, answer.text
            done += 1

    async with httpx2.AsyncClient(base_url=address, headers=headers, timeout=60) as session:
        begun = time.perf_counter()
        await asyncio.gather(*(ask(session) for _ in range(clients)))
        return done / (time.perf_counter() - begun)


def measure_jobs(address: str, token: str, rate: int, seconds: float) -> dict[str, float]:
    """GET /v1/jobs at a fixed rate while labelling jobs run one after the other."""
    for seed in range(40):  # so that the list is a full page, and work lasts for the measurement
        overrides = {"seed": seed, "labelling.chunk_rows": 8}
        call(address, token, "/v1/jobs", {"config": "demo", "until": "label",
                                          "overrides": overrides})  # fmt: skip
    code = "import sys; sys.path.insert(0, sys.argv[5]); import benchmarks.service as s; s.load()"
    command = [sys.executable, "-c", code, address, token, str(rate), str(seconds), str(ROOT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    busy = [job["state"] for job in call(address, token, "/v1/jobs?limit=100")["items"]]
    figures["jobs still at work afterwards"] = float(sum(s in ("queued", "running") for s in busy))
    return figures


def load() -> None:
    """The load process: raw HTTP/1.1 on kept connections, to leave the cores to the server."""
    address, token, rate, seconds, _ = sys.argv[1:]
    print(json.dumps(asyncio.run(open_loop(address, token, int(rate), float(seconds)))))


async def open_loop(address: str, token: str, rate: int, seconds: float) -> dict[str, float]:
    """
    Sends each request when it is due; a connection is taken from a pool or opened.

    The first second is not counted: connections open, and whoever asks right after a job was
    submitted waits for a new look at all jobs. `first second's longest` says for how long.
    """
    host, port = address.removeprefix("http://").split(":")
    request = (
        f"GET /v1/jobs HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()
    pool: list[Any] = []
    times: list[float] = []
    early: list[float] = []
    wrong = 0

    async def one(due: float) -> None:
        nonlocal wrong
        reader, writer = pool.pop() if pool else await asyncio.open_connection(host, int(port))
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        (times if due >= counted else early).append(time.perf_counter() - due)
        wrong += not head.startswith(b"HTTP/1.1 200")
        pool.append((reader, writer))

    tasks, begun = [], time.perf_counter()
    counted = begun + WARM_UP_SECONDS
    for number in range(int(rate * (WARM_UP_SECONDS + seconds))):
        due = begun + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    ranks = statistics.quantiles(times, n=1000)
    return {
        "GET /v1/jobs asked a second": float(rate),
        "GET /v1/jobs answered a second": len(times) / (time.perf_counter() - counted),
        "answers that were not 200": float(wrong),
        "p50, ms": 1000 * ranks[499],
        "p99, ms": 1000 * ranks[989],
        "p99.9, ms": 1000 * ranks[998],
        "first second's longest, ms": 1000 * max(early),
    }


def call(address: str, token: str, path: str, body: Any = None) -> Any:
    """One request."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(address + path, data, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def reached(url: str) -> bool:
    """Whether an address answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def wait_for(attempt: Any, seconds: float = 90) -> None:
    """Until true. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not attempt():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.2)


if __name__ == "__main__":
    main()
