"""What is done with a checkpoint that is not what was written: never trusted, never in the way."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import JobCancelled
from common.fingerprint import digest_path
from student.checkpoint import newest_checkpoint, read_manifest, set_aside_damaged
from student.progress import TrainingHooks

Train = Callable[..., Any]
FILES = {
    "weights.safetensors", "optimizer.safetensors", "random-0-of-1.safetensors", "ledger.json",
    "trainer_state.json", "files.json", "manifest.json",
}  # fmt: skip


def stopped(train: Train, at: int, **training: Any) -> None:
    steps: list[int] = []
    hooks = TrainingHooks(
        progress=lambda state: steps.append(state.step), cancelled=lambda: len(steps) == at
    )
    with pytest.raises(JobCancelled):
        train(name="a", hooks=hooks, max_steps=8, checkpoint_every_steps=3, **training)


@pytest.fixture
def checkpoints(train: Train, tmp_path: Path) -> Path:
    """Those of a training that was cancelled at step 4: of steps 3 and 4."""
    stopped(train, 4)
    folder = tmp_path / "a" / "checkpoints"
    assert {p.name for p in folder.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    return folder


def test_any_cut_or_missing_file_sets_a_checkpoint_aside(checkpoints: Path, tmp_path: Path) -> None:
    assert {p.name for p in (checkpoints / "checkpoint-4").iterdir()} == FILES
    for name in sorted(FILES - {"manifest.json"}):  # without which it counts as half written
        for cut in (True, False):
            copy = tmp_path / f"{name}-{cut}"
            shutil.copytree(checkpoints, copy)
            file = copy / "checkpoint-4" / name
            file.write_bytes(file.read_bytes()[:9]) if cut else file.unlink()

            (told,) = set_aside_damaged(copy)

            expected = read_manifest(copy / "checkpoint-3").identity
            assert name in told
            assert newest_checkpoint(copy, expected) == copy / "checkpoint-3"
            assert (copy / "damaged-checkpoint-4").is_dir()
    assert set_aside_damaged(checkpoints) == []


@pytest.mark.parametrize("name", ["weights.safetensors", "random-0-of-1.safetensors"])
def test_training_goes_on_from_the_sound_one_before_and_ends_with_the_same_weights(
    train: Train, checkpoints: Path, tmp_path: Path, name: str
) -> None:
    (checkpoints / "checkpoint-4" / name).unlink()

    summary = train(name="a", max_steps=8, checkpoint_every_steps=3)
    train(name="whole", max_steps=8, checkpoint_every_steps=3)

    assert summary.notes == [
        f"checkpoint-4 is damaged ({name} is missing) and was set aside as damaged-checkpoint-4; "
        "went on from checkpoint-3"
    ]
    first, second = (
        digest_path(tmp_path / n / "model" / "model.safetensors") for n in ("a", "whole")
    )
    assert first == second


def test_a_checkpoint_is_of_no_use_without_that_of_its_best_step(checkpoints: Path) -> None:
    identity = read_manifest(checkpoints / "checkpoint-4").identity
    ledger = checkpoints / "checkpoint-4" / "ledger.json"
    told = json.loads(ledger.read_text())
    for best, wanted in ((3, "checkpoint-4"), (2, "checkpoint-3")):
        ledger.write_text(json.dumps({**told, "best_step": best}))

        assert newest_checkpoint(checkpoints, identity) == checkpoints / wanted


def test_where_none_is_sound_the_training_begins_again(train: Train, checkpoints: Path) -> None:
    for checkpoint in checkpoints.glob("checkpoint-*"):
        (checkpoint / "files.json").unlink()  # as an earlier version left them

    summary = train(name="a", max_steps=8, checkpoint_every_steps=3)

    assert [e["step"] for e in summary.history if "loss" in e] == list(range(1, 9))
    assert [note.rpartition("; ")[2] for note in summary.notes] == ["went on from the start"] * 2
