"""What the tests of common share: a task with labels of its own, and small files."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from common.task import Label, TaskDefinition

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"

JsonlFile = Callable[..., Path]


@pytest.fixture
def weather() -> TaskDefinition:
    """A task of two labels that occurs nowhere else: nothing may know labels by heart."""
    return TaskDefinition(
        name="weather",
        title="Weather",
        labels=[Label(name="dry", aliases=["sunny"]), Label(name="wet")],
        teacher_prompt="weather-v1",
    )


@pytest.fixture
def jsonl(tmp_path: Path) -> JsonlFile:
    """Writes rows to a JSONL file of the test's folder."""

    def write(rows: Iterable[dict[str, Any]], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; skips where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED
