"""A file of recorded answers, found by id: an index in memory, the rows left on disk."""

import json
import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError

if TYPE_CHECKING:
    import numpy as np

ID_COLUMNS = ("id", "example_id", "fpb_id")
Row = Mapping[str, Any]
_READ_BYTES = 1 << 16


class Recordings:
    """
    The rows of one file that match `only`, by id and sample.

    Costs 18 bytes of memory a row (hash of the id, place, sample number); a JSONL row is read
    from disk when it is asked for, a Parquet file is held as Arrow columns.
    """

    def __init__(
        self,
        path: Path,
        places: "np.ndarray[Any, Any]",
        hashes: "np.ndarray[Any, Any]",
        samples: "np.ndarray[Any, Any]",
        fetch: Callable[[int], Row],
        id_column: str,
        reasoned: set[int],
    ):
        import numpy as np

        self.path = path
        self.id_column = id_column
        order = np.lexsort((places, samples, hashes))
        self._hashes, self._places, self._samples = hashes[order], places[order], samples[order]
        self._fetch = fetch
        self.numbers = sorted({int(n) for n in np.unique(self._samples)})
        self.reasoned = sorted(reasoned)

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, example_id: str, sample: int) -> Row | None:
        """The first row of this id whose `sample` column is `sample`."""
        wanted = hash(example_id)
        at = int(self._hashes.searchsorted(wanted))
        while at < len(self) and self._hashes[at] == wanted:
            if self._samples[at] == sample:
                row = self._fetch(int(self._places[at]))
                if str(row[self.id_column]) == example_id:
                    return row
            at += 1
        return None


def open_recordings(path: Path, id_column: str | None, only: Mapping[str, str | int]) -> Recordings:
    """
    The index of a JSONL or Parquet file, built once a process and version of the file.

    Raises InputError for a file that is missing, unreadable, without an id column or without
    any row that matches `only`.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(
            f"teacher.answers: {path} cannot be read ({error.strerror}); give the path of a JSONL "
            "or Parquet file with recorded answers."
        ) from error
    wanted = tuple(sorted(only.items()))
    return _open(path, status.st_mtime_ns, status.st_size, id_column, wanted)


@lru_cache(maxsize=8)
def _open(
    path: Path, _mtime: int, _size: int, id_column: str | None, only: tuple[tuple[str, Any], ...]
) -> Recordings:
    opened = _parquet(path) if path.suffix == ".parquet" else _jsonl(path)
    index = _Index(path, id_column, dict(only))
    rows, fetch = opened
    for place, row in rows:
        index.add(place, row)
    return index.finish(fetch)


class _Index:
    """Gathers the places of the rows that count."""

    def __init__(self, path: Path, id_column: str | None, only: Mapping[str, Any]):
        self._path, self._id_column, self._only = path, id_column, only
        self._hashes, self._places, self._samples = array("q"), array("q"), array("i")
        self._reasoned: set[int] = set()

    def add(self, place: int, row: Row) -> None:
        if self._id_column is None or self._id_column not in row:
            self._id_column = self._choose_id(row)
        for column, value in self._only.items():
            if column not in row:
                raise InputError(
                    f"teacher.only: {self._path} has no column '{column}'; "
                    f"it has {', '.join(sorted(row))}."
                )
            if row[column] != value:
                return
        sample = int(row.get("sample") or 0)
        self._hashes.append(hash(str(row[self._id_column])))
        self._places.append(place)
        self._samples.append(sample)
        if str(row.get("rationale") or "").strip():
            self._reasoned.add(sample)

    def _choose_id(self, row: Row) -> str:
        names = (self._id_column,) if self._id_column else ID_COLUMNS
        for name in names:
            if name in row:
                return name
        raise InputError(
            f"teacher.answers: {self._path} has no id column ({' or '.join(names)}); it has "
            f"{', '.join(sorted(row))}: name the right one as teacher.id_column."
        )

    def finish(self, fetch: Callable[[int], Row]) -> Recordings:
        import numpy as np

        if not self._hashes:
            which = f" with {self._only}" if self._only else ""
            raise InputError(f"teacher.answers: {self._path} has no recorded answers{which}.")
        return Recordings(
            self._path,
            np.array(self._places, dtype=np.int64),
            np.array(self._hashes, dtype=np.int64),
            np.array(self._samples, dtype=np.int32),
            fetch,
            str(self._id_column),
            self._reasoned,
        )


Opened = tuple[Iterator[tuple[int, Row]], Callable[[int], Row]]


def _jsonl(path: Path) -> Opened:
    descriptor = os.open(path, os.O_RDONLY)  # kept open: the rows of this very file are meant

    def rows() -> Iterator[tuple[int, Row]]:
        with path.open("rb") as stream:
            place = 0
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield place, _parse(line, path, number)
                place += len(line)

    def fetch(place: int) -> Row:
        line, size = b"", 1024
        while b"\n" not in line and size <= _READ_BYTES * 1024:
            read = os.pread(descriptor, size, place)
            done = len(read) < size
            line, size = read, size * 8
            if done:
                break
        return _parse(line.partition(b"\n")[0], path, 0)

    return rows(), fetch


def _parse(line: bytes, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(
            f"teacher.answers: line {number} of {path} is not JSON ({error}); "
            "the file needs one JSON object a line, in UTF-8."
        ) from error
    if not isinstance(row, dict):
        raise InputError(f"teacher.answers: line {number} of {path} is not a JSON object.")
    return row


def _parquet(path: Path) -> Opened:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, memory_map=False).combine_chunks()
    except pa.ArrowException as error:
        raise InputError(f"teacher.answers: {path} is not a Parquet file ({error}).") from error
    columns = {name: table.column(name).chunk(0) for name in table.column_names if len(table)}

    def fetch(place: int) -> Row:
        return {name: column[place].as_py() for name, column in columns.items()}

    def rows() -> Iterator[tuple[int, Row]]:
        for start in range(0, len(table), 4096):
            yield from enumerate(table.slice(start, 4096).to_pylist(), start)

    return rows(), fetch
