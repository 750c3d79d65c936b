"""How records lie in a table: flat columns, anything nested as JSON text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa
from pydantic_core import to_json

from common.records import Record

TAG = "outcome"  # the field that tells the members of a union apart
_FLAT = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@dataclass(frozen=True)
class Layout:
    """
    The table of one record class, or of a union of them (its columns are those of all members).

    `members` maps the value of `outcome` to its class; a single class stands under None.
    """

    name: str
    members: dict[str | None, type[Record]]
    schema: pa.Schema
    nested: frozenset[str]
    required: frozenset[str]

    def table(self, records: Sequence[Record]) -> pa.Table:
        """The records as columns, in order."""
        columns = [pa.array(self._cells(field.name, records), field.type) for field in self.schema]
        return pa.Table.from_arrays(columns, schema=self.schema)

    def records(self, batch: pa.RecordBatch | pa.Table) -> list[Any]:
        """The rows of a batch as validated records. Raises ValueError where one is not valid."""
        return [self._record(row) for row in batch.to_pylist()]

    def _cells(self, name: str, records: Sequence[Record]) -> list[Any]:
        values = [vars(record).get(name) for record in records]
        if name not in self.nested:
            return values
        return [None if value is None else _json(value) for value in values]

    def _record(self, row: dict[str, Any]) -> Record:
        member = self.members[row[TAG] if len(self.members) > 1 else None]
        known = {name: row[name] for name in member.model_fields.keys() & row.keys()}
        for name in self.nested & known.keys():
            if known[name] is not None:
                known[name] = json.loads(known[name])
        return member.model_validate(known)


def _json(value: Any) -> str:
    return to_json(value, inf_nan_mode="constants").decode()


@cache
def layout_of(model: Any) -> Layout:
    """The layout of a record class or of an annotated union such as `records.Answer`."""
    classes = _members(model)
    types = {n: _flat_type(f.annotation) for c in classes for n, f in c.model_fields.items()}
    needed = [{n for n, f in c.model_fields.items() if f.is_required()} for c in classes]
    return Layout(
        name="|".join(c.__name__ for c in classes),
        members={_tag(c) if len(classes) > 1 else None: c for c in classes},
        schema=pa.schema([(name, kind or pa.string()) for name, kind in types.items()]),
        nested=frozenset(name for name, kind in types.items() if kind is None),
        required=frozenset(set.intersection(*needed)) | ({TAG} if len(classes) > 1 else set()),
    )


def _members(model: Any) -> list[type[Record]]:
    if get_origin(model) is Annotated:
        return _members(get_args(model)[0])
    return list(get_args(model)) if get_origin(model) in (Union, UnionType) else [model]


def _tag(member: type[Record]) -> str:
    return str(get_args(member.model_fields[TAG].annotation)[0])


def _flat_type(annotation: Any) -> pa.DataType | None:
    """The Arrow type of a plain field, None for one that is stored as JSON."""
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return _flat_type(kinds[0]) if len(kinds) == 1 else None
    if get_origin(annotation) is Literal:
        return _flat_type(type(get_args(annotation)[0]))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return pa.string() if issubclass(annotation, str) else None
    return _FLAT.get(annotation)
