"""From a data config to train, validation and test files, and a report of what was found."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path

import numpy as np

from common.config.data import DataConfig, TestOnly, TrainOnly
from common.data.near_duplicates import MAX_ROWS, nearest_cosine
from common.data.report import Duplicates, NearDuplicates, PartCounts, SplitReport
from common.data.scan import NO_LABEL, Scan, scan
from common.data.sources import read_rows, source_name
from common.data.splits import Assignment, Part, assign
from common.data.store import record_writer
from common.errors import InputError
from common.fingerprint import digest
from common.records import Example
from common.task import TaskDefinition

PARTS = {"train": Part.TRAIN, "validation": Part.VALIDATION, "test": Part.TEST}


@dataclass
class _Kept:
    """What the second pass remembers: ids and texts of few rows, never of all."""

    leaked: list[str] = field(default_factory=list)
    training_texts: list[str] = field(default_factory=list)
    test_texts: dict[str, str] = field(default_factory=dict)


def prepare(config: DataConfig, task: TaskDefinition, seed: int, folder: Path) -> SplitReport:
    """
    Write folder/{train,validation,test}.parquet as Example records, in the source's order.

    Reads the source twice and keeps some 20 bytes a row, so its size does not matter. `seed`
    chooses the subset of `train_limit` / `train_fraction` and nothing else. Parts without rows
    are written empty. Raises InputError for a source that is not as the config says, and
    ConfigError for a label map that does not fit the task.
    """
    rows = scan(config, task)
    split = assign(rows, config, seed)
    _check_duplicates(split, config)
    _check_parts(split, config)
    kept = _write(config, task, rows, split, folder)
    return _report(config, task, rows, split, kept)


def _check_duplicates(split: Assignment, config: DataConfig) -> None:
    count = int(split.leaked.sum())
    if count and config.duplicates == "refuse":
        raise InputError(
            f"{count} test rows of {source_name(config)} stand in its training part as well "
            "(equal but for case, spacing and punctuation); set data.duplicates: drop_from_train "
            "to take them out of training, or keep to count them and go on."
        )


def _check_parts(split: Assignment, config: DataConfig) -> None:
    present = set(split.parts.tolist())
    if Part.TRAIN not in present and not isinstance(config.split, TestOnly):
        raise InputError(
            "no training row is left: data.train_limit, train_fraction and validation_share "
            f"leave none of {int(split.training_side.sum())}; raise them."
        )
    if Part.TEST not in present and not isinstance(config.split, TrainOnly):
        raise InputError("no row is left for the test: raise data.test_limit or split.test_share.")


def _write(
    config: DataConfig, task: TaskDefinition, rows: Scan, split: Assignment, folder: Path
) -> _Kept:
    kept = _Kept()
    few = len(rows) <= MAX_ROWS
    with ExitStack() as stack:
        writers = {
            part: stack.enter_context(record_writer(folder / f"{name}.parquet", Example))
            for name, part in PARTS.items()
        }
        decided = zip(
            split.parts.tolist(), split.leaked.tolist(), split.training_side.tolist(), strict=True
        )
        for (part, leaked, training), example in zip(
            decided, labelled_examples(config, task, rows), strict=True
        ):
            if part != Part.UNUSED:
                writers[part].add(example)
            if leaked:
                kept.leaked.append(example.id)
            if few and part == Part.TEST:
                kept.test_texts[example.id] = example.text
            if few and training:
                kept.training_texts.append(example.text)
    return kept


def labelled_examples(config: DataConfig, task: TaskDefinition, rows: Scan) -> Iterator[Example]:
    """The second pass, with the labels of the first. Raises InputError if the source changed."""
    names = {NO_LABEL: None, **dict(enumerate(task.label_names))}
    for row, label in zip_longest(read_rows(config), rows.labels.tolist()):
        if row is None or label is None:
            raise InputError(
                f"{source_name(config)} changed while it was read: {len(rows)} rows at first, "
                "then another number; start again when nothing writes to it."
            )
        yield Example(id=row.id, text=row.text, label=names[label], meta=row.meta or {})


def _report(
    config: DataConfig, task: TaskDefinition, rows: Scan, split: Assignment, kept: _Kept
) -> SplitReport:
    return SplitReport(
        source=source_name(config),
        rows=len(rows),
        parts={name: _counts(rows, split, part, task) for name, part in PARTS.items()},
        unused_rows=int((split.parts == Part.UNUSED).sum()),
        fingerprint=_fingerprint(rows, split, task),
        duplicates=Duplicates(
            count=len(kept.leaked),
            action=config.duplicates,
            removed_from_train=split.dropped,
            ids=kept.leaked,
        ),
        near_duplicates=_near(config, rows, kept),
        surplus_rows=len(rows) - len(np.unique(rows.folds)),
        conflicting_texts=_conflicting(rows),
        left_out=rows.left_out,
    )


def _counts(rows: Scan, split: Assignment, part: Part, task: TaskDefinition) -> PartCounts:
    labels = rows.labels[split.parts == part]
    return PartCounts(
        rows=len(labels),
        labels={name: int((labels == i).sum()) for i, name in enumerate(task.label_names)},
        unlabelled=int((labels == NO_LABEL).sum()),
    )


def _near(config: DataConfig, rows: Scan, kept: _Kept) -> NearDuplicates:
    least = config.near_duplicate_cosine
    if len(rows) > MAX_ROWS:
        note = f"not counted: {len(rows)} rows, and all pairs are compared up to {MAX_ROWS}"
        return NearDuplicates(cosine=least, count=None, note=note)
    cosines = nearest_cosine(list(kept.test_texts.values()), kept.training_texts)
    ids = [name for name, cosine in zip(kept.test_texts, cosines, strict=True) if cosine >= least]
    return NearDuplicates(cosine=least, count=len(ids), ids=ids)


def _conflicting(rows: Scan) -> int:
    labelled = rows.labels != NO_LABEL
    pairs = np.unique(np.stack([rows.folds[labelled], rows.labels[labelled].astype("u8")]), axis=1)
    _, counts = np.unique(pairs[0], return_counts=True)
    return int((counts > 1).sum())


def _fingerprint(rows: Scan, split: Assignment, task: TaskDefinition) -> str:
    order = np.lexsort((split.parts, rows.labels, rows.folds))
    columns = (rows.folds.astype("<u8"), rows.labels.astype("<i2"), split.parts.astype("i1"))
    state = sha256()
    for column in columns:
        state.update(column[order].tobytes())
    return digest({"labels": task.label_names, "rows": state.hexdigest()})
