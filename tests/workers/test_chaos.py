"""A day in very short: one minute of kills under the service, by the benchmark's own judgement."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.services, pytest.mark.slow]


def test_every_job_ends_and_nothing_is_left_after_a_minute_of_kills() -> None:
    command = [sys.executable, "benchmarks/chaos.py", "--minutes", "1", "--jobs", "24",
               "--clients", "4", "--seed", "5", "--json"]  # fmt: skip

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    told = json.loads(done.stdout)
    assert told["wrong"] == [], done.stderr[-2000:]
    assert told["jobs submitted"] == 24
    assert sum(told["kills"].values()) >= 3
