"""The process that computes: it may be killed, and does not outlive its server."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

Headers = dict[str, str]
ROOT = Path(__file__).resolve().parents[3]


def test_a_killed_process_of_students_costs_no_request(
    web: TestClient, reader: Headers, run_id: str
) -> None:
    path, body = f"/v1/runs/{run_id}/predict", {"texts": ["Sales of unit 3 rose sharply."]}

    def pool() -> Any:
        return web.app.state.services.predictors  # type: ignore[attr-defined]

    before = web.post(path, json=body, headers=reader).json()["predictions"]
    assert pool().loaded == [f"{run_id}/student"]
    (pid,) = pool()._executor._processes
    os.kill(pid, signal.SIGKILL)
    after = web.post(path, json=body, headers=reader)

    assert after.status_code == 200, after.text
    assert after.json()["predictions"] == before
    assert "torch" not in vars(sys.modules["workers.api.predicting"])


def test_a_failure_while_computing_is_told_and_the_next_request_is_answered(
    web: TestClient, reader: Headers, run_id: str, settings: Any
) -> None:
    path, body = f"/v1/runs/{run_id}/predict", {"texts": ["Sales of unit 3 rose sharply."]}
    weights = settings.runs / run_id / "systems" / "student" / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"not safetensors")
    broken = web.post(path, json=body, headers=reader)
    weights.write_bytes(whole)
    mended = web.post(path, json=body, headers=reader)

    assert broken.status_code == 409
    assert str(settings.runs) not in broken.text
    assert mended.status_code == 200


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_the_process_ends_with_a_server_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "import os, time\n"
        "from workers.api import students\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('forkserver'), students.begin, (1, 1))\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment,
    )  # fmt: skip
    assert server.stdout
    child = int(server.stdout.readline())
    server.kill()
    server.wait()
    server.stdout.close()

    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)

    assert not Path(f"/proc/{child}").exists()
