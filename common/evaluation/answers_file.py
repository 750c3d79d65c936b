"""Everybody's answers to every text as one Parquet file that anybody can read."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.data.atomic import atomic_file
from common.evaluation.comparison import Judged
from common.records import Example


def write_answers(
    path: Path, gold: Sequence[Example], judged: Sequence[Judged], labels: Sequence[str]
) -> None:
    """
    One row a system and text: system, id, text, gold, label (null: unreadable), right,
    `probability_LABEL` for each label, rationale, raw. The file appears whole.
    """
    schema = _schema(labels)
    texts = {example.id: example for example in gold}
    with atomic_file(path) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as file:
        for system in judged:
            rows = [
                {
                    "system": system.report.system.name,
                    "id": said.example_id,
                    "text": texts[said.example_id].text,
                    "gold": texts[said.example_id].label,
                    "label": said.label,
                    "right": said.label == texts[said.example_id].label,
                    **{f"probability_{n}": (said.probabilities or {}).get(n) for n in labels},
                    "rationale": said.rationale,
                    "raw": said.raw,
                }
                for said in system.predictions
            ]
            file.write_table(pa.Table.from_pylist(rows, schema))


def _schema(labels: Sequence[str]) -> pa.Schema:
    words = [(name, pa.string()) for name in ("system", "id", "text", "gold", "label")]
    chances = [(f"probability_{name}", pa.float64()) for name in labels]
    ends = [(name, pa.string()) for name in ("rationale", "raw")]
    return pa.schema([*words, ("right", pa.bool_()), *chances, *ends])
