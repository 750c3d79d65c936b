"""A student's mistake is told where the job is submitted, before any teacher is asked."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from common.task import CONFIGS
from tests.doubles.workers import note_worker, wait_until
from workers.cli import main
from workers.embedded_redis import EmbeddedRedis
from workers.foresight import trains_here
from workers.graph import QUEUES
from workers.registry import announce, living_workers

DEMO = str(CONFIGS / "demo.yaml")
MISTAKES = [
    ("student.prompt=nosuch", "student.prompt: task 'sentiment' has no student prompt 'nosuch'"),
    ("baselines.lora.student.prompt=nosuch", "baselines.lora.student.prompt: task"),
    ("student.tiny.family=gpt2", "student.tiny.family: 'gpt2' cannot be trained as seq2seq"),
    ("training.report_to=[wandbb]", "'wandbb' is no reporter, did you mean 'wandb'?"),
]
FOLDER = "student={architecture: causal, model: /nosuch}"
HERE = [
    (FOLDER, "student.model: there is no folder '/nosuch'"),
    ("training.report_to=[flyte]", "'flyte' is not installed; pip install flytekit"),
]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command with folders of its own: exit code and what it said on stderr."""
    monkeypatch.setenv("FINSTILL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FINSTILL_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("REDIS_URL", raising=False)

    def call(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        code = left.value.code
        return (code if isinstance(code, int) else 1), " ".join(capsys.readouterr().err.split())

    return call


@pytest.fixture
def queue(
    server: EmbeddedRedis, client: redis.Redis, run: Run, monkeypatch: pytest.MonkeyPatch
) -> Iterator[redis.Redis]:
    """A Redis with a worker of this host that does nothing."""
    monkeypatch.setenv("REDIS_URL", server.url)
    stop = threading.Event()
    beat = announce(client, list(QUEUES), stop)
    try:
        wait_until(lambda: living_workers(client), "the heartbeat is there", 20)
        yield client
    finally:
        stop.set()
        beat.join()


@pytest.mark.parametrize(("override", "sentence"), [*MISTAKES, *HERE])
@pytest.mark.parametrize("command", ["run", "train", "evaluate"])
def test_a_local_run_refuses_it_before_it_begins(
    run: Run, tmp_path: Path, command: str, override: str, sentence: str
) -> None:
    code, said = run(command, DEMO, "--local", override)

    assert code == 2
    assert sentence in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("override", "sentence"), [*MISTAKES, *HERE])
@pytest.mark.parametrize("command", ["run", "curve"])
def test_a_submitted_run_refuses_it_before_it_is_queued(
    run: Run, queue: redis.Redis, tmp_path: Path, command: str, override: str, sentence: str
) -> None:
    code, said = run(command, DEMO, override)

    assert code == 2
    assert sentence in said
    assert not (tmp_path / "runs").exists()
    assert queue.keys("finstill:job*") == []


def test_labels_alone_need_no_model_here_but_a_prompt_that_exists(
    run: Run, queue: redis.Redis
) -> None:
    code, said = run("label", DEMO, "--detach", FOLDER)
    assert (code, said) == (0, said)
    assert queue.zcard("finstill:jobs") == 1

    code, said = run("label", DEMO, "--detach", "student.prompt=nosuch")
    assert code == 2
    assert "no student prompt" in said


def test_a_folder_is_not_looked_for_where_another_host_trains(run: Run, queue: redis.Redis) -> None:
    note_worker(queue, "elsewhere:1", "train")

    code, said = run("run", DEMO, "--detach", FOLDER)

    assert (code, said) == (0, said)
    assert queue.zcard("finstill:jobs") == 1


def test_this_host_trains_when_all_who_train_are_on_it(client: redis.Redis) -> None:
    assert not trains_here(client)
    note_worker(client, "elsewhere:1", "label")
    assert not trains_here(client)
    note_worker(client, f"{socket.gethostname()}:7", "train", "evaluate")
    assert trains_here(client)
    note_worker(client, "elsewhere:2", "train")
    assert not trains_here(client)
