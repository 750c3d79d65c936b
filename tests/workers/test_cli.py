"""What the command answers to right and wrong usage: a sentence, an exit code, no traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from common.config import load_config
from common.task import CONFIGS, PROJECT_ROOT
from workers.cli import _COMMANDS, main
from workers.embedded_redis import EmbeddedRedis

DEMO = str(CONFIGS / "demo.yaml")


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    out, err = capsys.readouterr()
    code = left.value.code
    return (code if isinstance(code, int) else 1), out, err


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINSTILL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FINSTILL_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("REDIS_URL", raising=False)


@pytest.mark.parametrize("command", sorted(_COMMANDS))
def test_every_command_shows_an_example_in_its_help(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run([command, "--help"], capsys)

    assert code == 0
    assert out.count("finstill " + command) >= 1


def test_help_and_the_command_line_need_no_torch_celery_or_datasets() -> None:
    code = (
        "import sys, workers.cli\n"
        "heavy = {'torch', 'celery', 'datasets', 'transformers', 'redis'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=False)

    assert done.returncode == 0


@pytest.mark.parametrize("module", ["workers", "workers.cli"])
def test_the_modules_run_as_the_command(module: str) -> None:
    command = [sys.executable, "-m", module]

    version = subprocess.run([*command, "--version"], cwd=PROJECT_ROOT, capture_output=True)
    wrong = subprocess.run([*command, "rnu"], cwd=PROJECT_ROOT, capture_output=True)

    assert version.returncode == 0
    assert version.stdout.startswith(b"finstill, version ")
    assert wrong.returncode == 2
    assert b"did you mean 'run'?" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rnu"], "did you mean 'run'?"),
        (["run", "nowhere.yaml"], "does not exist"),
        (["run", DEMO, "trainin.epochs=1"], "unknown key, did you mean 'training'?"),
        (["run", DEMO, "epochs"], "not of the form key=value"),
        (["config", DEMO, "task=sentimnt"], "did you mean 'sentiment'?"),
        (["predict", "nowhere", "text"], "is not a run"),
        (["compare", "nowhere"], "is not a run"),
        (["worker", "--queues", "labels"], "there is no queue labels"),
        (["jobs", "one", "two", "three"], "is not [resume] ID"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(arguments, capsys)

    assert code == 2
    assert sentence in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.path=nowhere.jsonl", "nowhere.jsonl"),
        ("teacher.answers=nowhere.jsonl", "nowhere.jsonl"),
    ],
)
def test_a_missing_file_stops_a_local_run_with_its_name(
    override: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(["run", DEMO, "--local", override], capsys)

    assert code == 2
    assert sentence in err


def test_a_redis_that_does_not_answer_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")

    code, _, err = run(["run", DEMO], capsys)

    assert code == 1
    assert "does not answer" in err


def test_a_queue_without_a_worker_is_named(
    server: EmbeddedRedis,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)

    code, _, err = run(["run", DEMO], capsys)

    assert code == 1
    assert "no worker listens on evaluate or label or train" in err
    assert "finstill worker --queues evaluate,label,train" in err


def test_a_run_without_a_model_is_told_from_one_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, _ = run(["config", DEMO, "--json"], capsys)
    assert code == 0
    folder = tmp_path / "runs" / "demo-x"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"name": "demo"}))

    code, _, err = run(["predict", "demo-x", "text"], capsys)

    assert code == 2
    assert "config.json" in err


def test_an_estimate_needs_no_key_and_asks_nobody(
    server: EmbeddedRedis,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    teacher = "teacher={kind: claude, model: claude-haiku-5-5}"

    code, out, _ = run(["label", DEMO, "--estimate", "--json", teacher], capsys)

    (found,) = json.loads(out)
    assert code == 0
    assert (found["rows"], found["cached"], found["to_ask"]) == (900, 0, 900)
    assert 0 < found["usd_batch"] < found["usd_live"] < found["usd_at_most"]


def test_doctor_says_what_a_missing_key_would_allow(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["doctor", "--json"], capsys)

    findings = {f["what"]: f for f in json.loads(out)}
    assert code == 0
    assert findings["Redis"]["state"] == "ok"
    assert findings["VLLM_BASE_URL"] == {
        "what": "VLLM_BASE_URL",
        "state": "absent",
        "found": "not set",
        "advice": "asking Llama 3 through `vllm serve`",
    }


def test_a_half_written_config_of_a_run_is_told_from_a_missing_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "demo-x"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"name": "de')

    code, _, err = run(["predict", "demo-x", "text"], capsys)

    assert code == 2
    assert "is half-written or damaged" in " ".join(err.split())


def test_an_empty_run_is_not_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("demo-a", "demo-b"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")

    code, _, err = run(["predict", "", "text"], capsys)

    assert code == 2
    assert "run '' is empty; expected" in " ".join(err.split())
    assert "demo-a" not in err


@pytest.mark.parametrize("command", ["predict", "export"])
def test_a_system_whose_training_did_not_end_has_no_model(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "demo-x"
    (folder / "systems" / "half" / "model").mkdir(parents=True)
    (folder / "config.json").write_text(load_config(Path(DEMO)).model_dump_json())
    arguments = ["demo-x", "text"] if command == "predict" else ["demo-x"]

    code, _, err = run([command, *arguments, "--system", "half"], capsys)

    assert code == 2
    assert "has no trained system 'half'; trained: none." in " ".join(err.split())


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("FINSTILL_THREADS", "abc", "is no whole number of at least 1"),
        ("FINSTILL_THREADS", "0", "is no whole number of at least 1"),
        ("FINSTILL_THREADS", "1.5", "is no whole number of at least 1"),
        ("FINSTILL_VISIBILITY_SECONDS", "-3", "is no whole number of at least 1"),
        ("FINSTILL_LEASE_SECONDS", "nan", "is no number of at least 0.001"),
    ],
)
def test_a_number_of_the_environment_that_is_none_is_named(
    name: str,
    value: str,
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)

    code, _, err = run(["jobs"], capsys)

    assert code == 2
    assert f"{name}: '{value}' {wanted}; set it to one, or unset it." in " ".join(err.split())
