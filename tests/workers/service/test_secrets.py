"""Keys planted in the environment of a whole stack are nowhere to be found after a run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
KEYS = {
    "ANTHROPIC_API_KEY": "sk-ant-planted-0123456789abcdef",
    "VLLM_API_KEY": "vllm-planted-0123456789abcdef",
    "HF_TOKEN": "hf_planted0123456789abcdef",
}
NOBODY = "http://127.0.0.1:9"  # a teacher that cannot be reached: errors are where keys leak

pytestmark = [pytest.mark.services, pytest.mark.slow]


class Stack:
    """`finstill up` in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        environment = {**os.environ, **KEYS, "ANTHROPIC_BASE_URL": NOBODY,
                       "VLLM_BASE_URL": f"{NOBODY}/v1", "FINSTILL_STATE": str(folder / "state"),
                       "FINSTILL_RUNS": str(folder / "runs"), "FINSTILL_THREADS": "1",
                       "FINSTILL_LOG_FORMAT": "json"}  # fmt: skip
        environment.pop("REDIS_URL", None)
        command = [sys.executable, "-m", "workers", "up", "--port", self.address.split(":")[-1]]
        with (folder / "up.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        until(lambda: self.get("/ready")[0] == 200)
        self.token = (folder / "up.log").read_text().split("shown this once: ")[1].split()[0]

    def get(self, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status, and headers with body."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
        raw = data.encode() if isinstance(data, str) else data
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        headers = {"Content-Type": kind}
        if hasattr(self, "token"):
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.address + path, raw, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, bytes(answer.headers) + answer.read()
        except urllib.error.HTTPError as error:
            return error.code, bytes(error.headers) + error.read()
        except OSError:
            return 0, b""

    def job(self, body: dict[str, Any]) -> dict[str, Any]:
        """Submit and wait for the end."""
        told = json.loads(self.get("/v1/jobs", body)[1].split(b"\n\n", 1)[1])
        path = f"/v1/jobs/{told['id']}"

        def look() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(self.get(path)[1].split(b"\n\n", 1)[1])
            return found

        until(lambda: look()["state"] in ("done", "failed", "paused"))
        return look()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    found = Stack(tmp_path)
    yield found
    if found.process.poll() is None:
        found.process.send_signal(signal.SIGINT)
        found.process.wait(60)


def until(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_planted_keys_are_nowhere_after_a_whole_run_and_two_failed_ones(stack: Stack) -> None:
    small = {"training.max_steps": 4, "data.train_limit": 60, "evaluation.bootstrap": 100}
    done = stack.job({"config": "demo", "overrides": small})
    rows = [{"id": f"r{i}", "text": f"Sales rose by {i}.", "label": None, "split": "train"}
            for i in range(8)]  # fmt: skip
    rows += [{**row, "id": f"t{row['id']}", "text": f"In all: {row['text']}", "label": "positive",
              "split": "test"} for row in rows]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    upload = json.loads(stack.get("/v1/datasets?format=jsonl", lines)[1].split(b"\n\n", 1)[1])
    tree = {
        "name": "unreachable",
        "task": "sentiment",
        "data": {"kind": "jsonl", "path": f"upload:{upload['id']}", "split": {"kind": "column"}},
        "labelling": {"max_usd": 1},
        "baselines": {"majority": {"kind": "majority"}},
    }
    pace = {"max_attempts": 1, "timeout_seconds": 2}
    failed = [
        stack.job({"inline": {**tree, "teacher": {"kind": kind, "model": model, "pace": pace}}})
        for kind, model in (("claude", "claude-haiku-4-5"), ("vllm", "any"))
    ]
    assert done["state"] == "done", done["fault"]
    assert [job["state"] for job in failed] == ["failed", "failed"]
    addresses = ["/v1/jobs", "/v1/runs", "/v1/datasets", "/v1/configs", "/v1/teachers",
                 "/v1/cache/stats", "/v1/tokens", "/metrics", "/health", "/ready", "/openapi.json",
                 "/v1/jobs/none", "/jobs"]  # fmt: skip
    for job in (done, *failed):
        addresses += [f"/v1/jobs/{job['id']}", f"/v1/runs/{job['id']}",
                      f"/v1/runs/{job['id']}/report?format=json"]  # fmt: skip
    heard = {path: stack.get(path)[1] for path in addresses}
    told = json.dumps([done, *failed]).encode()

    stack.process.send_signal(signal.SIGINT)
    stack.process.wait(60)

    files = [path for path in stack.folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"worker-label.log", "worker-api.log", "report.html"} <= names
    assert any(name.endswith(".aof") for name in names)  # Redis's own file, with every job in it
    places = {str(path.relative_to(stack.folder)): path.read_bytes() for path in files}
    found = [
        (key, place)
        for key, secret in {**KEYS, "token": stack.token}.items()
        for place, content in {**places, **heard, "jobs": told}.items()
        if secret.encode() in content and not (key == "token" and place == "up.log")
    ]
    assert found == []
    assert not any(b"Authorization" in content for content in places.values())
