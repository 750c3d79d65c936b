"""What an export tells others: an untied output matrix, and no place on this machine."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.errors import UsageError
from common.records import TrainingPair
from common.task import TaskDefinition
from student.checkpoint import read_manifest
from student.export.export import export_student, require_publishable
from student.models.tiny import prepare_tiny, tiny_texts
from student.predict import Predictor
from student.train import train_student

Tiny = Callable[..., StudentConfig]
Pairs = Callable[[int], list[TrainingPair]]
LORA = {"lora": {"rank": 2}}
FORMS: dict[str, list[str]] = {
    "whole t5": ["hf", "merged", "ctranslate2", "onnx"],
    "warm-started bert": ["hf", "merged"],
    "adapter on a tiny llama": ["hf", "merged", "ctranslate2"],
    "adapter on a local llama": ["merged"],
}
NEEDED = {"ctranslate2": "ctranslate2", "onnx": "onnxruntime"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("private-place")


@pytest.fixture(scope="module")
def students(home: Path, task: TaskDefinition, tiny: Tiny, make_pairs: Pairs) -> dict[str, Path]:
    """Model folders by kind, whose bases lie under `home`."""

    def base(family: str) -> dict[str, Any]:
        shape = tiny("causal", family).tiny
        assert shape
        folder = home / f"{family}-base"
        prepare_tiny(folder, shape, tiny_texts(make_pairs(9), task, "default"), 1)
        return {"model": str(folder), "tiny": None, "tokenizer": str(folder)}

    def trained(name: str, config: StudentConfig) -> Path:
        train_student(
            student=config, task=task, train=make_pairs(12), validation=[], threads=1,
            training=TrainingConfig(max_steps=1, batch_size=8, evaluations=0, seed=5),
            folder=home / name,
        )  # fmt: skip
        return home / name / "model"

    short = {"max_rationale_tokens": 6}
    kinds = {
        "whole t5": tiny("seq2seq", "t5", **base("t5"), **short),
        "warm-started bert": tiny(
            "seq2seq", "bert", **base("bert"), **short, task_signal="decoder"
        ),
        "adapter on a tiny llama": tiny("causal", "llama", **short, **LORA),
        "adapter on a local llama": tiny("causal", "llama", **base("llama"), **short, **LORA),
    }
    return {name: trained(name, config) for name, config in kinds.items()}


@pytest.fixture(scope="module")
def texts(make_pairs: Pairs) -> list[str]:
    return [pair.text for pair in make_pairs(6)]


def untied(folder: Path, target: Path) -> Path:
    """A T5 as Flan-T5 is after training: transformers 5 writes that it is tied."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    (target / "config.json").write_text(json.dumps({**config, "scale_decoder_outputs": False}))
    return target


@pytest.mark.parametrize("form", ["hf", "merged"])
def test_an_untied_t5_says_so_to_other_libraries(
    form: Any, students: dict[str, Path], texts: list[str], tmp_path: Path
) -> None:
    folder = untied(students["whole t5"], tmp_path / "untied")

    export_student(folder, form, tmp_path / "out", texts)
    export_student(students["whole t5"], form, tmp_path / "tied", texts)

    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert told["tie_word_embeddings"] is False
    assert told["scale_decoder_outputs"] is False
    tied = json.loads((tmp_path / "tied" / "config.json").read_text())
    assert tied["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    ("kind", "form"), [(kind, form) for kind, forms in FORMS.items() for form in forms]
)
def test_no_file_of_an_export_names_a_place_on_this_machine(
    kind: str, form: Any, students: dict[str, Path], texts: list[str], home: Path, tmp_path: Path
) -> None:
    if form in NEEDED and find_spec(NEEDED[form]) is None:
        pytest.skip("needs the optional packages: finstill[export]")
    assert str(home) in (students[kind] / "manifest.json").read_text() + "".join(
        path.read_text() for path in students[kind].glob("adapter_config.json")
    ), "the student itself does name one"

    export_student(students[kind], form, tmp_path / "out", texts)

    written = [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".json", ".md")]
    assert len(written) >= 4
    for path in written:
        told = path.read_text()
        assert str(home) not in told, path.name
        assert str(tmp_path) not in told, path.name
    answers = Predictor.load(tmp_path / "out").predict(texts)
    assert [a.label for a in answers] == [
        a.label for a in Predictor.load(students[kind]).predict(texts)
    ]


def test_an_adapter_on_a_local_base_is_read_back_here_and_refused_to_others(
    students: dict[str, Path], texts: list[str], tmp_path: Path
) -> None:
    folder = students["adapter on a local llama"]

    export_student(folder, "hf", tmp_path / "out", texts)

    assert Predictor.load(tmp_path / "out").predict(texts[:1])
    with pytest.raises(UsageError, match="use --format merged"):
        require_publishable("hf", read_manifest(folder))
    require_publishable("merged", read_manifest(folder))
    for kind in FORMS.keys() - {"adapter on a local llama"}:
        require_publishable("hf", read_manifest(students[kind]))
    shared = read_manifest(folder).model_copy(update={"base": "someone/llama-of-the-hub"})
    require_publishable("hf", shared)
