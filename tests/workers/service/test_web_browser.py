"""The dashboard in a real browser: log in, submit, watch it end, report, try a text, cancel."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """`finstill up`: its address and its first token."""
    folder = tmp_path_factory.mktemp("up")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "FINSTILL_STATE": str(folder / "state"),
                   "FINSTILL_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    environment.pop("REDIS_URL", None)
    command = [sys.executable, "-m", "workers", "up", "--port", str(port)]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: b"first token" in (folder / "up.log").read_bytes())
        told = (folder / "up.log").read_text()
        token = told.split("shown this once: ")[1].split()[0]
        wait_for(lambda: ready(port))
        yield f"http://127.0.0.1:{port}", token
    finally:
        process.send_signal(2)
        assert process.wait(60) == 0
        assert not (folder / "state" / "stack.json").exists()


def wait_for(attempt: Callable[[], Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not attempt():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    with sync.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_person_runs_the_demo_in_the_browser(
    up: tuple[str, str], browser: Any, scheme: str, width: int
) -> None:
    address, token = up
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(120_000)
    faults: list[str] = []
    elsewhere: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("request", lambda sent: elsewhere.append(sent.url)
            if not sent.url.startswith((address, "data:")) else None)  # fmt: skip

    page.goto(address)
    page.fill("#token", token)
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs")
    page.click("summary")
    page.select_option("select[name=config]", "demo")
    page.fill("input[name='training.epochs']", "1")
    page.fill("input[name='data.train_limit']", "200")
    page.fill("input[name=seed]", "1" if scheme == "light" else "2")
    page.click("text=Submit")
    page.wait_for_url("**/jobs/demo-*")
    page.wait_for_selector("h1 .state.done", timeout=240_000)  # without a reload: by events
    page.click("text=Open the report")
    page.wait_for_url("**/report")
    assert "accuracy" in page.inner_text("body").lower()
    page.go_back()
    page.click("text=The run")
    page.wait_for_selector(".charts svg")
    page.click("text=Try it >> nth=-1")
    page.fill("#text", "Operating profit doubled to EUR 12 million.")
    page.click("main form button")
    page.wait_for_selector(".verdict")

    page.goto(f"{address}/compare")
    page.click("input[type=checkbox] >> nth=0")
    page.click("main form button")
    page.wait_for_selector("h1 .state.done", timeout=120_000)
    page.click("text=Open the report")
    page.wait_for_url("**/runs/compare-*/report")
    assert "accuracy" in page.inner_text("body").lower()

    page.goto(f"{address}/jobs")
    page.click("summary")
    page.fill("input[name=seed]", "91" if scheme == "light" else "92")
    page.click("text=Submit")
    page.wait_for_url("**/jobs/demo-*")
    page.click("text=Cancel")
    page.wait_for_selector("h1 .state.cancelled")

    for path in ("/jobs", "/runs", "/compare", "/try", "/labels", "/system"):
        page.goto(address + path)
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), path
    page.goto(f"{address}/jobs")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    context.close()
    assert faults == []
    assert elsewhere == []
