"""How sure the answers say they are, counted from the answers themselves."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from workers.web.labels import confidence


def write(path: Path, values: list[float | None]) -> Path:
    pq.write_table(pa.table({"confidence": pa.array(values, pa.float64())}), path)
    return path


def test_answers_are_counted_by_the_confidence_they_state(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [0.9, 0.95, 0.89, 0.7, 0.5, 0.49, None, 0.0])

    assert confidence(file, 1) == {
        "90 % or more": 2, "70 to 90 %": 2, "50 to 70 %": 1, "below 50 %": 2}  # fmt: skip


def test_teachers_that_state_none_have_no_such_figure(tmp_path: Path) -> None:
    assert confidence(write(tmp_path / "b.parquet", [None, None]), 1) == {}
