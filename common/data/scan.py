"""The first pass over a source: everything checked, some bytes a row kept, no text."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from common.config.base import suggestion
from common.config.data import ColumnSplit, DataConfig, Split
from common.data.fold import fold_key
from common.data.gold import GoldLabels
from common.data.rows import Row
from common.data.sources import read_rows
from common.errors import InputError
from common.task import TaskDefinition

UNDECIDED, TRAIN, TEST, LEFT_OUT = range(4)
NO_LABEL = -1


@dataclass(frozen=True)
class Scan:
    """
    What splitting needs to know of every row, in the order of the source.

    `folds` (n,) uint64 keys of the folded texts; `labels` (n,) positions in the task's label
    set or NO_LABEL; `sides` (n,) what the source itself says of the row's side.
    """

    folds: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.int16]
    sides: npt.NDArray[np.int8]
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.folds)


def scan(config: DataConfig, task: TaskDefinition) -> Scan:
    """
    Read the source once. About 20 bytes a row stay in memory.

    Raises InputError: no rows, unknown gold labels, an id that stands twice, a split column
    whose values are not the configured ones, a text that is no Unicode.
    """
    gold = GoldLabels(task, config.label_map)
    folds, ids, labels, sides = array("Q"), array("Q"), array("h"), array("b")
    position = {name: index for index, name in enumerate(task.label_names)}
    left_out: Counter[str] = Counter()
    for row in read_rows(config):
        folds.append(_fold_key(row))
        ids.append(_key(row.id))
        label = gold.read(row)
        labels.append(NO_LABEL if label is None else position[label])
        side = _side(row, config.split)
        sides.append(side)
        if side == LEFT_OUT:
            left_out[row.split or ""] += 1
    gold.check()
    result = Scan(_frozen(folds), _frozen(labels), _frozen(sides), dict(left_out))
    _check(result, config)
    _check_ids(_frozen(ids), config)
    return result


def place_of(config: DataConfig, index: int) -> str:
    """Where the row of this position stands in the source, for messages."""
    return next(islice(read_rows(config), index, None)).place


def _fold_key(row: Row) -> int:
    if not row.text.isascii():
        try:
            row.text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{row.place} is not valid Unicode ({error.reason} at character {error.start}); "
                "correct the text."
            ) from error
    return fold_key(row.text)


def _key(text: str) -> int:
    raw = text.encode(errors="surrogatepass")
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "big")


def _side(row: Row, split: Split) -> int:
    if row.origin.side is not None:
        return TRAIN if row.origin.side == "train" else TEST
    if isinstance(split, ColumnSplit):
        return {split.train: TRAIN, split.test: TEST}.get(row.split or "", LEFT_OUT)
    return UNDECIDED


def _frozen(values: "array[int]") -> npt.NDArray[Any]:
    return np.frombuffer(values, dtype=values.typecode)


def _check(result: Scan, config: DataConfig) -> None:
    if not len(result):
        raise InputError(f"{_where(config)} holds no rows; expected at least one text.")
    if isinstance(config.split, ColumnSplit):
        for side, word in ((TRAIN, config.split.train), (TEST, config.split.test)):
            if not (result.sides == side).any():
                raise InputError(_no_such_split(config, word, result.left_out))


def _no_such_split(config: DataConfig, word: str, others: Iterable[str]) -> str:
    others = sorted(others)
    hint = suggestion(word, others) or f"; other values: {', '.join(others) or 'none'}"
    return (
        f"{_where(config)} has no row whose split column says '{word}'{hint}; "
        "set data.split.train and data.split.test."
    )


def _check_ids(ids: npt.NDArray[Any], config: DataConfig) -> None:
    """Finds the first repeated id again in the source, where its name is."""
    keys, counts = np.unique(ids, return_counts=True)
    if not (counts > 1).any():
        return
    repeated = {int(key) for key in keys[counts > 1]}
    seen: dict[str, str] = {}
    for row in read_rows(config):
        if _key(row.id) in repeated and row.id in seen:
            raise InputError(
                f"{row.place}: id '{row.id}' stands already at {seen[row.id]} "
                f"({len(repeated)} ids stand more than once); give every row an id of its own, "
                "or name another column with data.columns.id."
            )
        seen[row.id] = row.place


def _where(config: DataConfig) -> str:
    place = getattr(config, "path", None) or getattr(config, "repository", None)
    return f"data set {place}" if place else "the Financial PhraseBank"
