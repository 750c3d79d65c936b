"""The container files against the code: commands, ports, names, variables. No engine is needed."""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from common import __version__
from workers.cli import cli
from workers.embedded_redis import server_binary
from workers.graph import QUEUES

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def resolved(words: list[str]) -> list[str]:
    """Compose's variables with their defaults filled in."""
    return [re.sub(r"\$\{\w+(?::-([^}]*))?(?::\?[^}]*)?\}", r"\1", word) for word in words]


def test_it_follows_the_compose_specification() -> None:
    tool = Path(sys.executable).with_name("check-jsonschema")
    if not tool.exists():
        pytest.skip("check-jsonschema is not installed")
    schema = ["--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]

    done = subprocess.run([tool, *schema], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_has_nothing_a_linter_complains_about() -> None:
    tool = shutil.which("hadolint") or str(Path(sys.executable).with_name("hadolint"))
    if not Path(tool).exists():
        pytest.skip("hadolint is not installed")

    done = subprocess.run([tool, "Dockerfile"], cwd=ROOT, capture_output=True, text=True,
                          check=False)  # fmt: skip

    assert done.returncode == 0, done.stdout


def test_every_image_the_dockerfile_starts_from_is_pinned_to_a_patch() -> None:
    values = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))
    stages = set(re.findall(r"^FROM .* AS (\w+)$", DOCKERFILE, re.MULTILINE))
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)

    outside = [re.sub(r"\$\{(\w+)\}", lambda m: values[m[1]], b) for b in bases if b not in stages]

    assert outside
    assert [b for b in outside if not re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*", b)] == []


def test_the_services_of_the_issue_are_there_with_their_profiles() -> None:
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}

    assert profiles == {
        "redis": [],
        "api": [],
        "worker-label": ["cpu", "gpu"],
        "worker-train": ["cpu"],
        "worker-train-gpu": ["gpu"],
        "vllm": ["gpu"],
        "flower": ["watch"],
    }


@pytest.mark.parametrize("name", [name for name in OURS if name != "flower"])
def test_each_command_is_one_that_the_program_has(name: str) -> None:
    command, *arguments = resolved(SERVICES[name]["command"])
    context = cli.make_context("finstill", [command, *arguments], resilient_parsing=False)
    known = cli.get_command(context, command)
    assert known is not None

    parsed = known.make_context(command, arguments)

    if command == "worker":
        assert set(parsed.params["queues"].split(",")) <= set(QUEUES)
    else:
        assert parsed.params["port"] == 8230


def test_together_the_workers_of_a_profile_serve_every_queue_once() -> None:
    for profile in ("cpu", "gpu"):
        served = []
        for service in SERVICES.values():
            words = service.get("command", [])
            if profile in service.get("profiles", []) and "--queues" in words:
                served += words[words.index("--queues") + 1].split(",")
        assert sorted(served) == sorted(QUEUES)


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_pinned_confined_watched_and_stopped_with_patience(name: str) -> None:
    service = SERVICES[name]

    assert re.search(r":v?\d+\.\d+\.\d+", service["image"])
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["healthcheck"]["test"]
    assert service["stop_grace_period"]
    if name != "vllm":  # it writes its caches where it likes
        assert service["read_only"] is True
    for port in service.get("ports", []):
        assert resolved([port])[0].startswith("127.0.0.1:")


def test_our_image_carries_this_version() -> None:
    for name in OURS:
        assert SERVICES[name]["image"].split(":")[1].split("-")[0] == __version__


def test_redis_persists_and_evicts_nothing() -> None:
    words = " ".join(SERVICES["redis"]["command"])

    assert "--appendonly yes" in words
    assert "--maxmemory-policy noeviction" in words
    assert "requirepass" in words
    assert "ports" not in SERVICES["redis"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}


def environment_names() -> set[str]:
    """Every variable that workers/services.py and the command line read."""
    text = (ROOT / "workers" / "services.py").read_text()
    names = {
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for file in (ROOT / "workers" / "commands").glob("*.py"):
        names |= set(re.findall(r'envvar="(\w+)"', file.read_text()))
    return names


def test_no_variable_is_set_that_nobody_reads() -> None:
    others = {"OMP_NUM_THREADS", "HF_TOKEN", "HF_HOME", "FLOWER_BASIC_AUTH", "REDIS_PASSWORD",
              "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK",
              "AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL"}  # fmt: skip
    known = environment_names() | others

    for name, service in SERVICES.items():
        assert set(service.get("environment", {})) <= known, name


def test_the_example_environment_names_exactly_what_compose_asks_for() -> None:
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    lines = (ROOT / ".env.example").read_text().splitlines()
    given = {line.split("=")[0] for line in lines if line and not line.startswith("#")}

    assert asked - given <= {"VLLM_BASE_URL"}  # the stack's own vLLM unless told otherwise
    assert given <= asked
    secret = {"REDIS_PASSWORD", "ANTHROPIC_API_KEY", "VLLM_API_KEY", "HF_TOKEN"}
    assert all(line.endswith("=") for line in lines if line.split("=")[0] in secret)


def test_the_image_is_run_from_app_by_nobody_in_particular() -> None:
    assert "PYTHONPATH=/app" in DOCKERFILE
    assert "USER 10001:10001" in DOCKERFILE.rsplit("FROM finstill AS watch")[0]
    assert "--editable" not in DOCKERFILE
    copied = set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.MULTILINE))
    assert copied == {"common", "teacher", "student", "workers", "configs"}
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            assert (ROOT / line[1:]).exists(), line


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, attempt: Any, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := attempt():
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what} did not come in {seconds} s")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def reached(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.services
def test_each_containers_command_works_as_a_plain_process(tmp_path: Path) -> None:
    """Redis by its shell line, API and workers by theirs, from a copy laid out like the image."""
    app = tmp_path / "app"
    for folder in ("common", "teacher", "student", "workers", "configs"):
        shutil.copytree(ROOT / folder, app / folder, ignore=shutil.ignore_patterns("__pycache__"))
    data, port, http = tmp_path / "data", free_port(), free_port()
    data.mkdir()
    line = SERVICES["redis"]["command"][-1].replace("$$", "$")
    places = {
        "valkey-server": str(server_binary()),
        "6379": str(port),
        "/data": str(data),
        "/tmp/valkey.conf": str(tmp_path / "valkey.conf"),
    }
    line = re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], line)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(app),
        "REDIS_PASSWORD": "s3cret",
        "REDIS_URL": f"redis://:s3cret@127.0.0.1:{port}/0",
        "FINSTILL_RUNS": str(data / "runs"),
        "FINSTILL_STATE": str(data / "state"),
        "FINSTILL_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    started: list[subprocess.Popen[bytes]] = []

    def start(words: list[str]) -> subprocess.Popen[bytes]:
        log = (tmp_path / f"{len(started)}.log").open("wb")
        process = subprocess.Popen(words, cwd=app, env=environment, stdout=log, stderr=log)
        log.close()
        started.append(process)
        return process

    def finstill(name: str) -> subprocess.Popen[bytes]:
        words = [word.replace("8230", str(http)) for word in resolved(SERVICES[name]["command"])]
        return start([sys.executable, "-m", "workers", *words])

    def healthy() -> bool:
        probe = [sys.executable, *SERVICES["worker-label"]["healthcheck"]["test"][2:]]
        return subprocess.run(probe, cwd=app, env=environment, check=False).returncode == 0

    try:
        redis_process = start(["sh", "-c", line])
        wait_for("redis", lambda: listens(port))
        for name in ("api", "worker-label", "worker-train"):
            finstill(name)
        wait_for("the API", lambda: reached(http, "/health"))
        wait_for("a worker's heartbeat", healthy)
        wait_for("all queues", lambda: reached(http, "/ready"))

        for process in started[1:]:
            process.terminate()
        codes = [process.wait(60) for process in started[1:]]
        redis_process.terminate()

        assert codes == [0, 0, 0]
        assert redis_process.wait(30) == 0
    finally:
        for process in started:
            process.kill()
            process.wait()
    told = b"".join(path.read_bytes() for path in tmp_path.glob("*.log"))
    assert b"s3cret" not in told
    assert b"fst_" not in told
