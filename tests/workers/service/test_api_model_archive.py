"""The archive of a model is what an hf export holds: it names no place on the server."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.records import TrainingPair
from common.task import load_task
from student.export.export import export_student
from student.models.tiny import prepare_tiny, tiny_texts
from student.predict import Predictor
from student.train import train_student
from workers.services import Settings

Headers = dict[str, str]
TEXTS = ["Sales of unit 3 rose sharply.", "Sales of unit 4 fell sharply.", "Unit 5 opens."]
LORA = {"lora": {"rank": 2}}
KINDS: dict[str, dict[str, Any]] = {
    "whole weights": {"architecture": "seq2seq", "local": "t5"},
    "a warm start": {"architecture": "seq2seq", "local": "bert", "task_signal": "decoder"},
    "an adapter on tiny weights": {"architecture": "causal", **LORA},
    "an adapter on a local model": {"architecture": "causal", "local": "llama", **LORA},
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("private-place")


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, home: Path) -> Path:
    """The model folder of a tiny student, whose base may lie under `home`."""
    kind, task = dict(KINDS[request.param]), load_task("sentiment")
    family = kind.pop("local", None)
    pairs = [
        TrainingPair(example_id=f"{i}", text=text, label="neutral", weight=1.0)
        for i, text in enumerate(TEXTS)
    ]
    shape = {"family": family or "llama", "hidden": 16, "layers": 1, "heads": 2, "feed_forward": 16}
    tree = {"model": "tiny-random", "tiny": shape, "max_rationale_tokens": 4, **kind}
    config = StudentConfig.model_validate(tree)
    if family:
        base = str(home / f"{family}-base")
        assert config.tiny
        prepare_tiny(Path(base), config.tiny, tiny_texts(pairs, task, "default"), 1)
        config = StudentConfig.model_validate(
            {**tree, "model": base, "tokenizer": base, "tiny": None}
        )
    folder = home / str(request.param).replace(" ", "-")
    train_student(
        student=config, task=task, train=pairs, validation=[], folder=folder, threads=1,
        training=TrainingConfig(max_steps=1, batch_size=4, evaluations=0, seed=5),
    )  # fmt: skip
    return folder / "model"


@pytest.fixture
def unpacked(
    web: TestClient, reader: Headers, run_id: str, settings: Settings, trained: Path, tmp_path: Path
) -> Path:
    """The archive of that student as the service sends it."""
    model = settings.runs / run_id / "systems" / "student" / "model"
    shutil.rmtree(model)
    shutil.copytree(trained, model)
    answer = web.get(f"/v1/runs/{run_id}/systems/student/model", headers=reader)
    assert answer.status_code == 200, answer.text
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        tar.extractall(tmp_path / "received", filter="data")
    return tmp_path / "received" / f"{run_id}-student"


def test_no_member_names_a_place_on_the_server(
    unpacked: Path, trained: Path, home: Path, settings: Settings
) -> None:
    own = "".join(p.read_text() for p in trained.rglob("*.json"))
    assert str(home) in own, "the student itself does name one"

    told = [p for p in unpacked.rglob("*") if p.suffix in (".json", ".md")]

    assert "manifest.json" in {p.name for p in told}
    for path in told:
        text = path.read_text()
        for place in (home, settings.runs, Path.cwd()):
            assert str(place) not in text, path.name
    assert (unpacked / "manifest.json").stat().st_mode & 0o400


def test_the_archive_is_an_hf_export_without_its_record(
    unpacked: Path, trained: Path, tmp_path: Path
) -> None:
    shipped = tmp_path / "shipped"
    export_student(trained, "hf", shipped, TEXTS, threads=1)
    (shipped / "export.json").unlink()
    names = {p.relative_to(shipped) for p in shipped.rglob("*") if p.is_file()}
    assert {p.relative_to(unpacked) for p in unpacked.rglob("*") if p.is_file()} == names

    for name in names:
        ours, theirs = (unpacked / name).read_bytes(), (shipped / name).read_bytes()
        if name.suffix != ".json":
            assert ours == theirs
            continue
        sent, exported = json.loads(ours), json.loads(theirs)
        for key, value in exported.items():
            # The one difference: an export keeps the place of the local base of an adapter.
            local = key in ("base", "base_model_name_or_path") and str(value).startswith("/")
            assert sent.pop(key) == (Path(value).name if local else value), f"{name}: {key}"
        assert sent == {}


def test_a_received_student_answers_as_on_the_server(
    unpacked: Path, trained: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)  # a local base is found by its name in the folder one works in

    answers = Predictor.load(unpacked).predict(TEXTS)

    assert answers == Predictor.load(trained).predict(TEXTS)


def test_a_model_whose_manifest_is_damaged_is_told_before_anything_is_sent(
    web: TestClient, reader: Headers, run_id: str, settings: Settings
) -> None:
    model = settings.runs / run_id / "systems" / "student" / "model"
    for text in ("{", "[]", "{}"):
        (model / "manifest.json").write_text(text)

        answer = web.get(f"/v1/runs/{run_id}/systems/student/model", headers=reader)

        assert answer.status_code == 409
        assert str(settings.runs) not in answer.text
        assert "train the student again" in answer.json()["detail"]


def test_links_of_a_model_folder_are_not_followed(
    web: TestClient, reader: Headers, run_id: str, settings: Settings, tmp_path: Path
) -> None:
    model = settings.runs / run_id / "systems" / "student" / "model"
    (tmp_path / "secret.txt").write_text("mine")
    (model / "notes.txt").symlink_to(tmp_path / "secret.txt")

    answer = web.get(f"/v1/runs/{run_id}/systems/student/model", headers=reader)

    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        assert not [name for name in tar.getnames() if name.endswith("notes.txt")]
    assert b"mine" not in answer.content
