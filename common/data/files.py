"""JSONL, CSV and Parquet files as rows, one at a time."""

import codecs
import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from common.config.base import suggestion
from common.config.data import Columns, ColumnSplit, FileData
from common.data.rows import Cells, Origin, Row, Side, check_header, rows_of
from common.errors import InputError

_ROWS_PER_BATCH = 1024


def file_rows(config: FileData) -> Iterator[Row]:
    """The rows of the file, then those of the test file where the config names one."""
    yield from _rows(config, config.path, "train" if config.test_path else None)
    if config.test_path:
        same = config.test_path.stem == config.path.stem
        yield from _rows(config, config.test_path, "test", "-test" if same else "")


def _rows(config: FileData, path: Path, side: Side | None, suffix: str = "") -> Iterator[Row]:
    unit: Literal["line", "row"] = "row" if config.kind == "parquet" else "line"
    origin = Origin(str(path), unit, side, path.stem + suffix)
    by_column = isinstance(config.split, ColumnSplit)
    match config.kind:
        case "jsonl":
            table = jsonl_cells(path, config.encoding)
        case "csv":
            table = _csv_cells(path, config, origin, by_column)
        case "parquet":
            table = _parquet_cells(path, config.columns, origin, by_column)
    return rows_of(table, config.columns, origin, by_column)


def jsonl_cells(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, Cells]]:
    """
    Line number (from 1) and object of every line that is not blank.

    Raises InputError for a line that is no JSON object, or not in this encoding.
    """
    with _text_file(path, encoding) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, _json_object(line, path, number)


def _json_object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"line {number} of {path} is not JSON ({error}); a JSONL file holds one JSON object "
            "a line."
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            f"line {number} of {path} is a JSON {type(value).__name__}, not an object with "
            'columns such as {"text": …}.'
        )
    return value


def _csv_cells(
    path: Path, config: FileData, origin: Origin, by_column: bool
) -> Iterator[tuple[int, Cells]]:
    with _text_file(path, config.encoding, newline="") as stream:
        reader = csv.DictReader(stream, delimiter=config.delimiter, strict=True)
        try:
            _check_delimiter(reader.fieldnames or (), config, path)
            if reader.fieldnames is not None:
                check_header(reader.fieldnames, config.columns, origin, by_column)
            for cells in reader:
                if None in cells:
                    raise csv.Error(f"more cells than the header's {len(reader.fieldnames or ())}")
                yield reader.line_num, cells
        except csv.Error as error:
            raise InputError(
                f"line {reader.line_num} of {path} is not CSV ({error}); cells are separated by "
                f"{config.delimiter!r}, and a cell that holds one or a quote stands in double "
                "quotes."
            ) from error


def _check_delimiter(header: Sequence[str], config: FileData, path: Path) -> None:
    """A header of one cell that holds another common delimiter was not written with ours."""
    found = [mark for mark in (";", "\t", "|", ",") if len(header) == 1 and mark in header[0]]
    if found and config.columns.text not in header:
        raise InputError(
            f"{path} has the single column {header[0]!r:.80}: its cells seem to be separated by "
            f"{found[0]!r}, not {config.delimiter!r}; set data.delimiter."
        )


def _parquet_cells(
    path: Path, columns: Columns, origin: Origin, by_column: bool
) -> Iterator[tuple[int, Cells]]:
    number = 0
    with _parquet_faults(path), pq.ParquetFile(path, pre_buffer=False) as file:
        check_header(file.schema_arrow.names, columns, origin, by_column)
        asked = {columns.id, columns.text, columns.label, columns.split, *columns.meta}
        names = [name for name in file.schema_arrow.names if name in asked]
        for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=names):
            for cells in batch.to_pylist():
                number += 1
                yield number, cells


@contextmanager
def _parquet_faults(path: Path) -> Iterator[None]:
    check_file(path)
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{path} is not a Parquet file, or is damaged: {first}.") from error


@contextmanager
def _text_file(path: Path, encoding: str, newline: str | None = None) -> Iterator[IO[str]]:
    check_file(path)
    codec = "utf-8-sig" if encoding in ("utf-8", "utf8") else encoding  # a BOM is no column name
    try:
        with path.open(encoding=codec, newline=newline) as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise InputError(_not_in(path, encoding)) from error


def check_file(path: Path) -> None:
    """Raises InputError, naming a neighbour of similar name, unless `path` is a readable file."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file; name a file inside it.")
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"{path} does not exist{suggestion(path.name, names) or '.'}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _not_in(path: Path, encoding: str) -> str:
    """Says which line and byte are wrong, and which encoding to try."""
    with path.open("rb") as stream:
        head = stream.read(2)
        stream.seek(0)
        wide = head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        where = "" if wide else _first_bad(stream, encoding)
    return (
        f"{path} is not {encoding} text{where}; say how it is encoded, "
        f"e.g. data.encoding={'utf-16' if wide else 'latin-1'}."
    )


def _first_bad(stream: IO[bytes], encoding: str) -> str:
    for number, line in enumerate(stream, 1):
        try:
            line.decode(encoding)
        except UnicodeDecodeError as error:
            return f" (line {number} holds the byte 0x{line[error.start]:02x})"
    return ""
