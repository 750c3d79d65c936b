"""An export to a full disk, or to a place that takes no folder, ends in one sentence."""

import errno
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.errors import DiskFull, InputError
from common.records import TrainingPair
from common.task import TaskDefinition
from student.export.export import export_student
from student.predict import Predictor
from student.runtime import TorchRuntime
from student.train import train_student

NO_ROOM = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def texts(make_pairs: Callable[[int], list[TrainingPair]]) -> list[str]:
    return [pair.text for pair in make_pairs(4)]


@pytest.fixture(scope="module")
def student(
    tmp_path_factory: pytest.TempPathFactory,
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    make_pairs: Callable[[int], list[TrainingPair]],
) -> Path:
    home = tmp_path_factory.mktemp("student")
    train_student(
        student=tiny("seq2seq", "t5", max_rationale_tokens=4), task=task, train=make_pairs(16),
        training=TrainingConfig(max_steps=1, batch_size=8, evaluations=0, seed=5),
        validation=[], folder=home, threads=1,
    )  # fmt: skip
    return home / "model"


# What fails first on a full disk in each form, and how its library says it.
FULL: list[tuple[str, str, Exception, str | None]] = [
    ("hf", "shutil.copyfile", NO_ROOM, None),  # copytree turns it into a shutil.Error
    (
        "merged",
        "transformers.PreTrainedModel.save_pretrained",
        Exception("No space left on device"),
        None,
    ),
    (
        "ctranslate2",
        "ctranslate2.converters.TransformersConverter.convert",
        Exception("No space left on device"),
        "ctranslate2",
    ),
    ("onnx", "onnx.save_model", NO_ROOM, "onnxruntime"),
]


@pytest.mark.parametrize(("form", "place", "error", "package"), FULL, ids=[f[0] for f in FULL])
def test_a_full_disk_is_told_and_leaves_nothing(
    form: Any,
    place: str,
    error: Exception,
    package: str | None,
    student: Path,
    texts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if package and find_spec(package) is None:
        pytest.skip("needs the optional packages: finstill[export]")

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(place, full)

    with pytest.raises(DiskFull, match="the disk is full: '"):
        export_student(student, form, tmp_path / "out", texts, threads=1)

    assert list(tmp_path.iterdir()) == []


def test_other_failures_keep_their_own_words(
    student: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("something else")

    monkeypatch.setattr("shutil.copytree", broken)

    with pytest.raises(ZeroDivisionError, match="something else"):
        export_student(student, "hf", tmp_path / "out", texts, threads=1)


@pytest.mark.parametrize("out", ["file", "file/below", "a" * 300, "link"])
def test_a_target_that_takes_no_folder_is_told(
    out: str, student: Path, texts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    with pytest.raises(InputError, match=r"cannot write to '.*--out") as told:
        export_student(student, "hf", tmp_path / out, texts, threads=1)

    assert "\n" not in str(told.value)
    assert {p.name for p in tmp_path.iterdir()} == {"file", "real", "link"}
    assert (tmp_path / "file").read_text() == "mine"


def test_the_folder_one_stands_in_is_not_replaced(
    student: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (Path(), Path("."), tmp_path):
        with pytest.raises(InputError, match="holds the folder you are in"):
            export_student(student, "hf", out, texts, threads=1)


def test_the_student_is_gone_from_memory_when_its_export_is_loaded(
    student: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[Any]] = []
    alive: list[int] = []
    load, begin = Predictor.load, TorchRuntime.__init__

    def watch(self: TorchRuntime, manifest: Any, student: Any, *more: Any) -> None:
        loaded.append(weakref.ref(student.module))
        begin(self, manifest, student, *more)

    def counted(folder: Path, **more: Any) -> Predictor:
        alive.append(sum(module() is not None for module in loaded))
        return load(folder, **more)

    monkeypatch.setattr(TorchRuntime, "__init__", watch)
    monkeypatch.setattr(Predictor, "load", counted)

    export_student(student, "hf", tmp_path / "out", texts, threads=1)

    assert len(loaded) == 2
    assert alive == [0, 0]
    assert not list(tmp_path.glob(".*"))


SMALL_DISK = """
import sys
from pathlib import Path
from common.errors import DiskFull
from student.export.export import export_student

student, place, *texts = sys.argv[1:]
for form in {forms}:
    try:
        export_student(Path(student), form, Path(place) / "out", texts, threads=1)
    except DiskFull as error:
        assert "the disk is full: '" in str(error)
        assert not list(Path(place).iterdir())
    else:
        raise AssertionError(form + " had room")
"""


@pytest.mark.slow
def test_a_disk_that_is_full_indeed_is_told(
    student: Path, texts: list[str], tmp_path: Path
) -> None:
    """On a file system of 60 KB, mounted for one process where the system allows it."""
    mount = f"mount -t tmpfs -o size=60k tmpfs {tmp_path}"
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*own, mount], capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    forms = ["hf", "merged", *(f for f in ("ctranslate2", "onnx") if find_spec(f))]
    python = [sys.executable, "-c", SMALL_DISK.format(forms=forms), str(student), str(tmp_path)]

    done = subprocess.run(
        [*own, f'{mount} && exec "$@"', "sh", *python, *texts],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-2000:]
