"""Records on disk: Parquet in row groups, written whole or not at all, read piece by piece."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, overload

import pyarrow as pa
import pyarrow.parquet as pq

from common.data.atomic import atomic_file
from common.data.layout import Layout, layout_of
from common.errors import InputError
from common.records import Answer, Record

R = TypeVar("R", bound=Record)
ROWS_PER_GROUP = 4096  # a slice reads whole groups: some hundred kilobytes of short texts
_ROWS_PER_BATCH = 1024


class RecordWriter:
    """Gathers records into row groups; made by `record_writer`."""

    def __init__(self, layout: Layout, table: pq.ParquetWriter):
        self.count = 0
        self._layout = layout
        self._table = table
        self._waiting: list[Record] = []

    def add(self, record: Record) -> None:
        """Append one record."""
        self._waiting.append(record)
        self.count += 1
        if len(self._waiting) >= ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a row group."""
        if self._waiting:
            self._table.write_table(self._layout.table(self._waiting))
        self._waiting.clear()


@contextmanager
def record_writer(path: Path, model: Any) -> Iterator[RecordWriter]:
    """
    A writer whose file appears, whole, when the block ends without an exception.

    Memory: one row group. Raises DiskFull when the disk takes no more.
    """
    layout = layout_of(model)
    with (
        atomic_file(path) as stream,
        pq.ParquetWriter(
            stream, layout.schema, compression="zstd", write_page_checksum=True
        ) as table,
    ):
        writer = RecordWriter(layout, table)
        yield writer
        writer.flush()


def write_records(path: Path, records: Iterable[Record], model: Any) -> int:
    """
    Write records of `model` (a record class, or `records.Answer`) to `path`; how many there were.

    Streams: memory holds one row group. The file appears whole, or an earlier one stays.
    """
    with record_writer(path, model) as writer:
        for record in records:
            writer.add(record)
    return writer.count


@overload
def read_records(path: Path, model: type[R]) -> Iterator[R]: ...
@overload
def read_records(path: Path, model: object) -> Iterator[Any]: ...
def read_records(path: Path, model: Any) -> Iterator[Any]:
    """
    The records of a file in order, a batch at a time.

    Raises InputError for a file that is missing, damaged, half written or of other records.
    """
    layout = layout_of(model)
    with _opened(path, layout) as file:
        for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH):
            yield from layout.records(batch)


def read_columns(path: Path, *names: str) -> Iterator[tuple[Any, ...]]:
    """
    The cells of some columns, row by row, without making records: a million in a second or two.

    Raises InputError for a file that cannot be read or has no such column.
    """
    with _read_faults(path), pq.ParquetFile(path) as file:
        missing = set(names) - set(file.schema_arrow.names)
        if missing:
            raise InputError(f"{path} has no column {', '.join(sorted(missing))}.")
        for batch in file.iter_batches(batch_size=ROWS_PER_GROUP, columns=list(names)):
            yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)


def read_answers(path: Path) -> Iterator[Answer]:
    """`read_records(path, Answer)` with its type."""
    return read_records(path, Answer)


@overload
def read_slice(path: Path, start: int, stop: int, model: type[R]) -> list[R]: ...
@overload
def read_slice(path: Path, start: int, stop: int, model: object) -> list[Any]: ...
def read_slice(path: Path, start: int, stop: int, model: Any) -> list[Any]:
    """Rows start … stop-1; only the row groups that hold them are read. Short at the file's end."""
    layout = layout_of(model)
    with _opened(path, layout) as file:
        groups, skipped = _groups_of(file.metadata, start, stop)
        if not groups:
            return []
        table = file.read_row_groups(groups, use_threads=False)
        return layout.records(table.slice(start - skipped, stop - start))


def count_records(path: Path) -> int:
    """How many records a file holds, from its footer alone."""
    with _read_faults(path):
        return int(pq.read_metadata(path).num_rows)


def _groups_of(footer: Any, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups that overlap start … stop-1, and the rows before the first of them."""
    groups: list[int] = []
    before = first = 0
    for number in range(footer.num_row_groups):
        after = before + footer.row_group(number).num_rows
        if before < stop and after > start:
            first = before if not groups else first
            groups.append(number)
        before = after
    return groups, first


@contextmanager
def _opened(path: Path, layout: Layout) -> Iterator[pq.ParquetFile]:
    with (
        _read_faults(path),
        pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file,
    ):
        missing = layout.required - set(file.schema_arrow.names)
        if missing:
            raise InputError(
                f"{path} is no table of {layout.name} records: it lacks the columns "
                f"{', '.join(sorted(missing))}; make it again."
            )
        yield file


@contextmanager
def _read_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; the step that writes it has not run.") from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"{path} is damaged or not a Parquet file of finstill ({first}); delete it and "
            "run the step that writes it again."
        ) from error
