"""Preparing a data set takes the same memory for any number of rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEAK_MB = 600  # the bar for a million rows; Python, numpy and pyarrow alone take about 130

PREPARE = """
import resource, sys
from pathlib import Path
from common.config.data import FileData, RandomSplit, TrainOnly
from common.data.prepare import prepare
from common.task import load_task

path, split = Path(sys.argv[1]), TrainOnly() if sys.argv[2] == "train_only" else RandomSplit()
report = prepare(FileData(kind="jsonl", path=path, split=split), load_task("sentiment"), 1,
                 path.parent / "out")
assert "torch" not in sys.modules and "datasets" not in sys.modules
print(report.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def write_rows(path: Path, count: int) -> None:
    words = ["negative", "neutral", "positive"]
    with path.open("w", encoding="utf-8") as stream:
        for i in range(count):
            text = f"Quarterly revenue of company {i} rose by {i % 97} percent to EUR {i} million ."
            stream.write(json.dumps({"text": text, "label": words[i % 3]}) + "\n")


def peak_mb(path: Path, split: str) -> int:
    command = [sys.executable, "-c", PREPARE, str(path), split]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[1])


def test_fifty_thousand_rows_take_hardly_more_memory_than_five_hundred(tmp_path: Path) -> None:
    few, many = tmp_path / "few.jsonl", tmp_path / "many.jsonl"
    write_rows(few, 500)
    write_rows(many, 50_000)

    grown = peak_mb(many, "train_only") - peak_mb(few, "train_only")

    assert grown < 60, f"{grown} MB more for 49,500 rows more"


@pytest.mark.slow
@pytest.mark.parametrize("split", ["random", "train_only"])
def test_a_million_rows_stay_under_the_bar(tmp_path: Path, split: str) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, 1_000_000)

    assert peak_mb(path, split) < PEAK_MB
