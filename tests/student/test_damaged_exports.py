"""An export that lost a part on its way says so when it is opened, in one sentence."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.errors import StudentError
from common.records import TrainingPair
from common.task import TaskDefinition
from student.export.export import export_student
from student.predict import Predictor
from student.train import train_student

Damage = Callable[[Path], object]
PACKAGES = {"ctranslate2": "ctranslate2", "onnx": "onnxruntime"}


@pytest.fixture(scope="module")
def exports(
    tmp_path_factory: pytest.TempPathFactory,
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    make_pairs: Callable[[int], list[TrainingPair]],
) -> Callable[[str], Path]:
    """The folder of an int8 export of a form, or of the student itself (`model`)."""
    home, pairs = tmp_path_factory.mktemp("student"), make_pairs(16)
    train_student(
        student=tiny("seq2seq", "t5", max_rationale_tokens=4), task=task, train=pairs,
        training=TrainingConfig(max_steps=2, batch_size=8, evaluations=0, seed=5),
        validation=[], folder=home, threads=1,
    )  # fmt: skip

    def get(form: Any) -> Path:
        if form in PACKAGES and find_spec(PACKAGES[form]) is None:
            pytest.skip("needs the optional packages: finstill[export]")
        if not (home / form).exists():
            export_student(home / "model", form, home / form, [p.text for p in pairs], threads=1)
        return home / str(form)

    return get


def gone(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def cut(name: str, kept: float) -> Damage:
    def act(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(kept * len(whole))])

    return act


def tokens(told: dict[str, int], keep: bool = True) -> Damage:
    def act(folder: Path) -> None:
        tree = json.loads((folder / "manifest.json").read_text())
        tree["tokens"] = {**(tree["tokens"] if keep else {}), **told}
        (folder / "manifest.json").write_text(json.dumps(tree))

    return act


WEIGHTS = {"ctranslate2": ["ctranslate2/model.bin"], "onnx": ["model.onnx", "exact.onnx"]}
FILES: list[tuple[str, Damage, str]] = [
    (form, damage, name)
    for form, names in WEIGHTS.items()
    for name in names
    for damage in (gone(name), cut(name, 0), cut(name, 0.5), cut(name, 0.999))
] + [
    ("ctranslate2", damage(name), name)
    for name in ("ctranslate2/config.json", "ctranslate2/shared_vocabulary.json")
    for damage in (gone, lambda name: cut(name, 0.5))
]


@pytest.mark.parametrize(
    ("form", "damage", "name"), FILES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_file_that_is_gone_or_cut_is_told_when_the_export_is_opened(
    form: str, damage: Damage, name: str, exports: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(exports(form), tmp_path / "copy")
    damage(folder)

    with pytest.raises(StudentError, match="copy it again whole") as told:
        Predictor.load(folder)

    assert name.split("/")[0] in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("form", ["model", "ctranslate2", "onnx"])
@pytest.mark.parametrize(
    "damage",
    [
        tokens({}, keep=False),
        tokens({"predict": 1}, keep=False),
        tokens({"predict": 10**6}),
        tokens({"pad": 10**20}),
        tokens({"end": -1}),
        tokens({"start": 1}),
    ],
)
def test_tokens_that_the_tokenizer_does_not_have_are_told(
    form: str, damage: Damage, exports: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(exports(form), tmp_path / "copy")
    damage(folder)

    with pytest.raises(StudentError, match="its manifest names the tokens") as told:
        Predictor.load(folder)

    assert "\n" not in str(told.value)


@pytest.mark.parametrize("damage", [gone("model.safetensors"), cut("model.safetensors", 0.5)])
def test_a_damaged_student_is_not_merged(
    damage: Damage, exports: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(exports("model"), tmp_path / "copy")
    damage(folder)

    with pytest.raises(StudentError, match="cannot be loaded") as told:
        export_student(folder, "merged", tmp_path / "out", ["Sales rose."], threads=1)

    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage", [gone("adapter_model.safetensors"), cut("adapter_model.safetensors", 0.5)]
)
def test_a_damaged_adapter_is_not_merged(
    damage: Damage,
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    make_pairs: Callable[[int], list[TrainingPair]],
    tmp_path: Path,
) -> None:
    train_student(
        student=tiny("causal", "llama", lora={"rank": 2}), task=task, train=make_pairs(8),
        training=TrainingConfig(max_steps=1, batch_size=8, evaluations=0, seed=5),
        validation=[], folder=tmp_path, threads=1,
    )  # fmt: skip
    damage(tmp_path / "model")

    with pytest.raises(StudentError, match="holds no adapter that fits") as told:
        export_student(tmp_path / "model", "merged", tmp_path / "out", ["Up."], threads=1)

    assert "\n" not in str(told.value)
