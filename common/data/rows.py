"""A row of a source before its label is understood, and how table columns become one."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from common.config.base import suggestion
from common.config.data import Columns
from common.errors import InputError
from common.records import Scalar

Side = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where rows come from: a name for messages, what it counts, and its side if it has one."""

    name: str
    unit: Literal["line", "row"]
    side: Side | None = None
    id_prefix: str = ""


class Row(NamedTuple):
    """One text as its source has it: `label` and `split` are the source's own words, or None."""

    origin: Origin
    number: int
    id: str
    text: str
    label: str | None
    split: str | None = None
    meta: dict[str, Scalar] | None = None

    @property
    def place(self) -> str:
        """ "line 17 of gold.csv", for messages."""
        return place(self.origin, self.number)


Cells = Mapping[str, Any]


def place(origin: Origin, number: int) -> str:
    """ "line 17 of gold.csv", for messages."""
    return f"{origin.unit} {number} of {origin.name}"


def rows_of(
    table: Iterable[tuple[int, Cells]], columns: Columns, origin: Origin, split_used: bool
) -> Iterator[Row]:
    """
    The rows of a table of named cells.

    Raises InputError for a cell that holds no text, or a split column that is not there.
    """
    for index, (number, cells) in enumerate(table):
        yield Row(
            origin,
            number,
            _id(cells, columns, origin, index),
            _text(cells, columns.text, origin, number),
            plain(cells.get(columns.label)),
            _split(cells, columns.split, origin, number) if split_used else None,
            {name: _scalar(cells[name]) for name in columns.meta if name in cells},
        )


def check_header(names: Iterable[str], columns: Columns, origin: Origin, split_used: bool) -> None:
    """Raises InputError naming the first column that is asked for and not in the header."""
    names = list(names)
    asked = {"text": columns.text, "label": columns.label, "id": columns.id, "split": columns.split}
    default = Columns()
    for key, name in asked.items():
        needed = key == "text" or (key == "split" and split_used) or name != getattr(default, key)
        if needed and name not in names:
            raise InputError(_no_column(origin, key, name, names))
    for name in columns.meta:
        if name not in names:
            raise InputError(_no_column(origin, "meta", name, names))


def plain(value: Any) -> str | None:
    """A label or split cell as text: 1, 1.0 and "1" are the same code; empty cells are None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def _text(cells: Cells, name: str, origin: Origin, number: int) -> str:
    text = cells.get(name)
    if name not in cells:
        raise InputError(_no_column(origin, "text", name, cells, number))
    if not isinstance(text, str) or not text.strip():
        found = "is empty" if text is None or text == "" or isinstance(text, str) else "is no text"
        raise InputError(
            f"{place(origin, number)}: column '{name}' {found} (got {text!r:.60}); every row "
            "needs a text, take the row out or fill it in."
        )
    return text


def _id(cells: Cells, columns: Columns, origin: Origin, index: int) -> str:
    value = plain(cells.get(columns.id))
    return f"{origin.id_prefix}-{index:06d}" if value is None else value


def _split(cells: Cells, name: str, origin: Origin, number: int) -> str | None:
    if name not in cells:
        raise InputError(_no_column(origin, "split", name, cells, number))
    return plain(cells[name])


def _scalar(value: Any) -> Scalar:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _no_column(
    origin: Origin, key: str, name: str, names: Iterable[str], number: int | None = None
) -> str:
    known = [str(n) for n in names]
    where = origin.name if number is None else place(origin, number)
    hint = suggestion(name, known) or f"; it has: {', '.join(known) or 'none'}"
    return f"{where} has no column '{name}'{hint}; name the right one with data.columns.{key}."
