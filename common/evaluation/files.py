"""
The same judgement and comparison from Parquet files, column by column.

For data sets that do not fit into memory as records: of a million texts only the label codes
(one byte each), the probabilities and the browsed rows are held.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.json import ParseOptions, read_json

from common.config.run import EvaluationConfig
from common.data.layout import layout_of
from common.errors import InputError
from common.evaluation.browse import browse_texts
from common.evaluation.compare import compare_codes, distinct_reports
from common.evaluation.comparison import BrowseText, Comparison, ReportContext
from common.evaluation.counts import Codes, Floats
from common.evaluation.evaluate import AGREEMENT, evaluate_codes, lenient_codes, text_parts
from common.evaluation.paired_calibration import confidence_of
from common.evaluation.pairs import Answers
from common.evaluation.scores import probability_text_scores
from common.records import EvaluationReport, Example, Prediction, SystemCard
from common.task import TaskDefinition

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class JudgedFile:
    """A system's report with the Parquet file of the predictions it was judged by."""

    report: EvaluationReport
    predictions: Path


def evaluate_file(
    system: SystemCard,
    gold: Path,
    predictions: Path,
    task: TaskDefinition,
    settings: EvaluationConfig,
    dataset: str,
    data_fingerprint: str,
    *,
    near_duplicates: Collection[str] = (),
) -> EvaluationReport:
    """
    `evaluate_system` on Parquet files of Examples and Predictions, without rationale scores.

    Raises InputError as `evaluate_system` does, and for a file that cannot be read.
    """
    names = task.label_names
    ids, codes = _gold(gold, names)
    order = _order(ids, predictions, system.name)
    raw = _column(predictions, "raw", order)
    labels = _column(predictions, "label", order)
    pairs = zip(labels.to_pylist(), raw.to_pylist(), strict=True)
    return evaluate_codes(
        system,
        codes,
        _codes(labels, names, predictions),
        task,
        settings,
        dataset,
        data_fingerprint,
        probabilities=_probabilities(predictions, names, order),
        parts=text_parts(ids.to_pylist(), _agreement(gold), near_duplicates),
        lenient=None if raw.null_count == len(raw) else lenient_codes(list(pairs), task),
    )


def compare_files(
    systems: Sequence[JudgedFile],
    gold: Path,
    task: TaskDefinition,
    settings: EvaluationConfig,
    *,
    context: ReportContext,
    near_duplicates: Collection[str] = (),
) -> Comparison:
    """`compare_systems` on Parquet files; per-text scores are those of the probabilities."""
    names = task.label_names
    ids, codes = _gold(gold, names)
    reports = distinct_reports([s.report for s in systems], len(ids))
    orders = [_order(ids, s.predictions, s.report.system.name) for s in systems]
    answers = []
    for report, system, order in zip(reports, systems, orders, strict=True):
        labels = _codes(_column(system.predictions, "label", order), names, system.predictions)
        answer = Answers(report.system.name, labels)
        if report.probability is not None:
            probabilities = _probabilities(system.predictions, names, order)
            scores = probability_text_scores(codes, probabilities)
            sure = confidence_of(codes, probabilities)
            answer = replace(answer, scores=scores, confidence=sure)
        answers.append(answer)
    texts = _texts(systems, gold, orders, answers, task, settings.browse_rows, context)
    parts = text_parts(ids.to_pylist(), _agreement(gold), near_duplicates)
    return compare_codes(
        reports, codes, answers, task, settings, context=context, texts=texts, parts=parts
    )


def without_rows(path: Path, column: str, ids: Collection[str], target: Path) -> Path:
    """A copy of a table without the rows whose `column` is one of `ids`; gives `target`."""
    unwanted = pa.array(sorted(ids), pa.string())
    with pq.ParquetFile(path) as file, pq.ParquetWriter(target, file.schema_arrow) as writer:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
            kept = pc.invert(pc.is_in(batch.column(column), value_set=unwanted))
            writer.write_batch(batch.filter(kept))
    return target


def _gold(path: Path, names: Sequence[str]) -> tuple[pa.Array, Codes]:
    ids = _column(path, "id")
    labels = _column(path, "label")
    if labels.null_count:
        bare = ids.filter(pc.is_null(labels))[0].as_py()
        raise InputError(f"text '{bare}' of {path} has no gold label; only labelled can be judged.")
    if pc.count_distinct(ids).as_py() != len(ids) or not len(ids):
        raise InputError(f"{path} has {len(ids)} texts and not an id of its own for each.")
    return ids, _codes(labels, names, path)


def _column(path: Path, name: str, order: NDArray[np.int64] | None = None) -> pa.Array:
    try:
        column = pq.read_table(path, columns=[name]).column(0).combine_chunks()
    except (OSError, pa.ArrowException, IndexError, KeyError) as error:
        raise InputError(f"{path} is no table with a column '{name}': {error}.") from error
    return column if order is None else column.take(order)


def _codes(labels: pa.Array, names: Sequence[str], path: Path) -> Codes:
    places = pc.index_in(labels, value_set=pa.array(names, labels.type))
    unknown = pc.and_(pc.is_null(places), pc.is_valid(labels))
    if pc.any(unknown).as_py():
        stranger = labels.filter(unknown)[0].as_py()
        raise InputError(
            f"label {stranger!r} in {path} is not of this task, which knows {', '.join(names)}."
        )
    return np.asarray(places.fill_null(len(names)).to_numpy(zero_copy_only=False), np.int8)


def _order(ids: pa.Array, predictions: Path, system: str) -> NDArray[np.int64] | None:
    """Where each text's prediction lies; None where the file is in the texts' order already."""
    found = _column(predictions, "example_id")
    if len(found) == len(ids) and pc.all(pc.equal(found, ids)).as_py():
        return None
    places = pc.index_in(ids, value_set=found)
    missing = places.null_count
    if missing or len(found) != len(ids):
        raise InputError(
            f"system '{system}' has {len(found)} predictions in {predictions}, and none for "
            f"{missing} of the {len(ids)} texts: expected exactly one for each."
        )
    return np.asarray(places.to_numpy(), np.int64)


def _agreement(gold: Path) -> list[Any]:
    meta = _column(gold, "meta").dictionary_encode()
    values = [json.loads(cell or "{}").get(AGREEMENT) for cell in meta.dictionary.to_pylist()]
    return [None if place is None else values[place] for place in meta.indices.to_pylist()]


def _probabilities(path: Path, names: Sequence[str], order: NDArray[np.int64] | None) -> Floats:
    """(texts, labels), NaN rows for none; the column holds JSON (see common/data/layout.py)."""
    cells = _column(path, "probabilities", order)
    found = np.full((len(cells), len(names)), np.nan)
    for start in range(0, len(cells), _ROWS_AT_ONCE):
        batch = cells.slice(start, _ROWS_AT_ONCE)
        given = np.asarray(batch.is_valid())
        if given.any():
            rows = np.flatnonzero(given) + start
            found[rows] = _shares(_from_json(batch.drop_null(), names, path), names, path)
    return found


def _shares(given: Floats, names: Sequence[str], path: Path) -> Floats:
    sums = given.sum(1)
    if not ((np.abs(sums - 1) <= 0.02).all() and (given >= 0).all()):  # false for NaN too
        raise InputError(
            f"probabilities in {path} are no shares over {', '.join(names)} that sum to 1."
        )
    shares: Floats = given / sums[:, None]
    return shares


def _from_json(cells: pa.Array, names: Sequence[str], path: Path) -> Floats:
    """Objects of numbers by name, as (cells, names): 0 for a name that one does not have."""
    texts = cells.to_pylist()
    if not all(text.lstrip().startswith("{") for text in texts):  # a lone null ends pyarrow itself
        raise InputError(f"probabilities in {path}: expected one JSON object a row.")
    lines = "\n".join(texts).encode()
    schema = pa.schema([(name, pa.float64()) for name in names])
    options = ParseOptions(schema, newlines_in_values=True, unexpected_field_behavior="ignore")
    try:
        table = read_json(pa.BufferReader(lines), parse_options=options)
    except pa.ArrowException as error:
        raise InputError(f"probabilities in {path} are no JSON objects: {error}.") from error
    if len(table) != len(cells):
        raise InputError(f"probabilities in {path}: expected one JSON object a row.")
    columns = [table.column(name).fill_null(0.0).to_numpy() for name in names]
    return np.stack(columns, axis=1)


def _texts(
    systems: Sequence[JudgedFile],
    gold: Path,
    orders: Sequence[NDArray[np.int64] | None],
    answers: Sequence[Answers],
    task: TaskDefinition,
    most: int,
    context: ReportContext,
) -> list[BrowseText]:
    stacked = np.stack([a.codes for a in answers])
    agreed = (stacked == stacked[0]).all(0)
    rows = np.sort(np.argsort(agreed, kind="stable")[:most])
    examples = list(_rows(gold, rows, Example))
    joined = [
        list(_rows(s.predictions, rows if order is None else order[rows], Prediction))
        for s, order in zip(systems, orders, strict=True)
    ]
    return browse_texts(examples, joined, task, most, context)


def _rows(path: Path, rows: NDArray[np.int64], model: Any) -> Iterator[Any]:
    """The records at `rows`, in that order; one row group at a time is in memory."""
    kept: dict[int, Any] = {}
    wanted = np.sort(rows)
    start = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
            low, high = np.searchsorted(wanted, [start, start + batch.num_rows])
            if high > low:
                inside = batch.take(pa.array(wanted[low:high] - start))
                kept.update(zip(wanted[low:high], layout_of(model).records(inside), strict=True))
            start += batch.num_rows
    for row in rows:
        yield kept[row]
