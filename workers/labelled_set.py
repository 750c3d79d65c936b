"""The labelled set of a run as one Parquet file that anybody can read without finstill."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.data.atomic import atomic_file
from common.records import Example
from teacher.aggregate import Aggregated

ROWS_PER_GROUP = 4096


class LabelledSet:
    """Gathers rows; made by `labelled_set`."""

    def __init__(self, labels: Sequence[str], table: pq.ParquetWriter):
        self._labels = labels
        self._table = table
        self._rows: list[dict[str, object]] = []

    def add(self, example: Example, part: str, said: Aggregated) -> None:
        """Append one text with what the teachers say of it."""
        chances = said.probabilities or {}
        self._rows.append(
            {
                "id": example.id,
                "text": example.text,
                "part": part,
                "label": said.label,
                **{column(name): chances.get(name) for name in self._labels},
                "confidence": said.confidence,
                "rationale": said.rationale,
                "rationale_teacher": said.rationale_teacher,
                "said": json.dumps(said.said, ensure_ascii=False),
            }
        )
        if len(self._rows) >= ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a row group."""
        if self._rows:
            self._table.write_table(pa.Table.from_pylist(self._rows, self._table.schema))
        self._rows.clear()


@contextmanager
def labelled_set(path: Path, labels: Sequence[str]) -> Iterator[LabelledSet]:
    """
    A writer whose file appears, whole, when the block ends without an exception.

    Columns: id, text, part, label, one `probability_LABEL` per label (null where no teacher gave
    probabilities), confidence, rationale, rationale_teacher, said (JSON: teacher to its labels).
    """
    strings = ("id", "text", "part", "label")
    chances = [(column(name), pa.float64()) for name in (*labels,)]
    schema = pa.schema(
        [(name, pa.string()) for name in strings]
        + [*chances, ("confidence", pa.float64())]
        + [(name, pa.string()) for name in ("rationale", "rationale_teacher", "said")]
    )
    with atomic_file(path) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as table:
        rows = LabelledSet(labels, table)
        yield rows
        rows.flush()


def column(label: str) -> str:
    """The column that holds a label's probability."""
    return f"probability_{label}"
