"""
Reads an uploaded file from end to end in a process of its own, with little memory and no secrets.

A small compressed Parquet file can unfold into any size; whatever it does, it does it here.
`python -m workers.api.inspection FILE FORMAT COLUMN ROWS` prints one JSON object.
"""

import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError

MEMORY_BYTES = 2 << 30
SECONDS = 120
MOST_TEXT_SIGNS = 100_000
_ROOT = Path(__file__).resolve().parents[2]


def inspect(file: Path, form: str, needed: str, most_rows: int) -> dict[str, Any]:
    """
    Rows, columns and label counts of an upload in which every row must have the column `needed`.

    Raises InputError for what is not fit.
    """
    command = [sys.executable, "-m", "workers.api.inspection",
               str(file), form, needed, str(most_rows)]  # fmt: skip
    environment = {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=_ROOT, env=environment, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"the file could not be read within {SECONDS} s.") from error
    try:
        found = json.loads(done.stdout)
    except ValueError as error:
        raise InputError(
            f"the file could not be read as {form} within {MEMORY_BYTES >> 30} GB of memory; "
            "is it compressed beyond reason, or damaged?"
        ) from error
    if "fault" in found:
        raise InputError(str(found["fault"]).replace(str(file), "the file"))
    return dict(found)


def _look(file: Path, form: str, needed: str, most_rows: int) -> dict[str, Any]:
    rows, columns, labels = 0, dict[str, None](), Counter[str]()
    for number, cells in _cells(file, form):
        rows += 1
        if rows > most_rows:
            raise InputError(f"the file has more than the {most_rows} rows an upload may have.")
        for name in cells:
            columns.setdefault(str(name)[:100])
        _check(cells, needed, number)
        label = cells.get("label")
        if isinstance(label, str | int) and len(labels) < 100:
            labels[str(label)[:60]] += 1
        if len(columns) > 200:
            raise InputError("the file has more than 200 columns.")
    if rows == 0:
        raise InputError("the file has no rows.")
    return {"rows": rows, "columns": list(columns), "labels": dict(labels)}


def _check(cells: Mapping[str, Any], needed: str, number: int) -> None:
    value = cells.get(needed)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise InputError(f"row {number} of the file has no '{needed}'; every row needs one.")
    for name, cell in cells.items():
        if isinstance(cell, str) and len(cell) > MOST_TEXT_SIGNS:
            raise InputError(
                f"row {number}: '{str(name)[:60]}' has {len(cell)} signs, at most "
                f"{MOST_TEXT_SIGNS} are taken."
            )
        if isinstance(cell, str) and "\0" in cell:
            raise InputError(f"row {number}: '{str(name)[:60]}' holds a NUL character.")


def _cells(file: Path, form: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    from common.data.files import jsonl_cells

    if form == "jsonl":
        yield from jsonl_cells(file)
    elif form == "csv":
        yield from _csv(file)
    else:
        yield from _parquet(file)


def _csv(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import csv

    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            for cells in reader:
                if None in cells:
                    raise InputError(f"line {reader.line_num} has more cells than the header.")
                yield reader.line_num, cells
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"the file is not CSV in UTF-8: {error}.") from error


def _parquet(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file, pre_buffer=False) as table:
            for batch in table.iter_batches(batch_size=64, use_threads=False):
                for cells in batch.to_pylist():
                    number += 1
                    yield number, cells
    except (pa.ArrowException, OSError) as error:
        first = (str(error).strip().splitlines() or ["unreadable"])[0]
        raise InputError(f"the file is not Parquet, or is damaged: {first}.") from error


def main(arguments: list[str]) -> None:
    """Limit this process, look, print."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    file, form, needed, most_rows = arguments
    try:
        found = _look(Path(file), form, needed, int(most_rows))
    except (InputError, MemoryError, RecursionError, ValueError) as error:
        found = {"fault": str(error) or "the file needs more memory than an upload is given."}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
