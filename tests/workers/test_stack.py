"""What keeps an embedded stack up: children are started again, Redis too, and nobody is left."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from workers import children
from workers.children import Child, stop_all
from workers.services import Settings
from workers.stack import Stack


def sleeper() -> "subprocess.Popen[bytes]":
    code = "import time; time.sleep(60)"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_child_that_ended_is_started_again_and_stopped_in_the_end() -> None:
    child = Child("sleeper", sleeper)
    first = child.process
    os.kill(first.pid, signal.SIGKILL)
    first.wait()

    def again() -> bool:
        child.look_after()
        return child.process is not first

    until(again)
    assert child.process.poll() is None
    stop_all([child], 5)
    assert child.process.poll() == -signal.SIGTERM


def test_a_child_that_keeps_ending_waits_longer_each_time_and_nobody_waits_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[float] = []

    def broken() -> "subprocess.Popen[bytes]":
        starts.append(time.monotonic())
        process = subprocess.Popen(["false"])
        process.wait()
        return process

    monkeypatch.setattr(children, "LONGEST_PAUSE_SECONDS", 1.0)
    child = Child("broken", broken)
    longest = 0.0
    ends = time.monotonic() + 3.2
    while time.monotonic() < ends:
        begun = time.monotonic()
        child.look_after()
        longest = max(longest, time.monotonic() - begun)
        time.sleep(0.02)

    assert longest < 0.4  # a look is at most a start, never a pause
    assert 3 <= len(starts) <= 5  # after 0.5, 1, 1 seconds


def test_a_child_deaf_to_sigterm_is_killed_with_its_own_children(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "below = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path(sys.argv[1]).write_text(str(below.pid))\n"
        "time.sleep(60)\n"
    )
    note = tmp_path / "pid"

    def deaf() -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", code, str(note)]
        return subprocess.Popen(command, start_new_session=True)

    child = Child("deaf", deaf)
    until(lambda: note.exists() and bool(note.read_text()))

    stop_all([child], 0.5)

    below = Path("/proc") / note.read_text() / "stat"
    until(lambda: not below.exists() or below.read_text().split()[2] == "Z")


@pytest.mark.services
def test_a_killed_redis_is_started_again_and_keeps_what_it_had(tmp_path: Path) -> None:
    import redis

    settings = Settings(redis_url=None, runs=tmp_path / "r", state=tmp_path / "s", threads=1)
    stack = Stack(settings)
    stack.redis.start()
    stop = threading.Event()

    def look_after() -> None:
        while not stop.wait(0.1):
            stack.revive()

    watcher = threading.Thread(target=look_after)
    watcher.start()
    try:
        with redis.Redis.from_url(stack.redis.url) as client:
            client.set("paid", "answer")
            server = int(client.info("server")["process_id"])
            os.kill(server, signal.SIGKILL)
            until(stack.redis.answers)
            until(lambda: int(client.info("server")["process_id"]) != server)
            assert client.get("paid") == b"answer"
    finally:
        stop.set()
        watcher.join()
        stack.stop()
