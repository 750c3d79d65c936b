"""Which row goes where: decided on keys of folded texts, never on single rows."""

from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from common.config.data import DataConfig, FingptSplit, RandomSplit, Split, TestOnly, TrainOnly
from common.data.scan import NO_LABEL, TEST, TRAIN, UNDECIDED, Scan, place_of
from common.errors import InputError

Mask = npt.NDArray[np.bool_]


class Part(IntEnum):
    """Where a row ends up. UNUSED: beyond a limit, dropped, or of no side."""

    UNUSED = 0
    TRAIN = 1
    VALIDATION = 2
    TEST = 3


@dataclass(frozen=True)
class Assignment:
    """
    `parts` (n,) of Part. `training_side` marks the whole training side before any limit, and
    `leaked` the test rows whose folded text stands there. `dropped` training rows gave way.
    """

    parts: npt.NDArray[np.int8]
    training_side: Mask
    leaked: Mask
    dropped: int


def assign(rows: Scan, config: DataConfig, seed: int) -> Assignment:
    """
    Sides, then duplicates, then limits, then the validation part.

    The test side and the validation part do not depend on `seed`; the subset of
    `train_limit` / `train_fraction` does, and is nested for one seed.
    Raises InputError for a test row without a gold label, and for texts on both sides
    where `duplicates: refuse`.
    """
    train, test = _sides(rows, config.split)
    _check_gold(rows, test, config)
    leaked = test & np.isin(rows.folds, rows.folds[train])
    dropped = 0
    if leaked.any() and config.duplicates == "drop_from_train":
        gives_way = train & np.isin(rows.folds, rows.folds[test])
        dropped = int(gives_way.sum())
        train = train & ~gives_way
    parts = np.full(len(rows), Part.UNUSED, dtype=np.int8)
    parts[_limited(rows, test, config.test_limit, "test")] = Part.TEST
    for part, mask in _training_parts(rows, train, config, seed):
        parts[mask] = part
    return Assignment(parts, train, leaked, dropped)


def _sides(rows: Scan, split: Split) -> tuple[Mask, Mask]:
    undecided = rows.sides == UNDECIDED
    train, test = rows.sides == TRAIN, rows.sides == TEST
    if undecided.any():
        drawn = _drawn_for_test(rows, undecided, split)
        train, test = train | (undecided & ~drawn), test | drawn
    return train, test


def _drawn_for_test(rows: Scan, undecided: Mask, split: Split) -> Mask:
    match split:
        case TestOnly():
            return undecided
        case TrainOnly():
            return np.zeros_like(undecided)
        case FingptSplit():
            return _fingpt_test(len(rows), split)
        case RandomSplit():
            return _random_test(rows, split)
        case _:
            raise AssertionError("a column split decides every row")


def _fingpt_test(n: int, split: FingptSplit) -> Mask:
    """`datasets.Dataset.train_test_split`: the first ceil(share * n) of a seeded permutation."""
    drawn = np.zeros(n, dtype=np.bool_)
    count = int(np.ceil(split.test_share * n))
    drawn[np.random.default_rng(split.seed).permutation(n)[:count]] = True
    return drawn


def _random_test(rows: Scan, split: RandomSplit) -> Mask:
    """Only texts with a gold label in all their rows can be judged, so only they are drawn."""
    judgeable = ~np.isin(rows.folds, rows.folds[rows.labels == NO_LABEL])
    if not judgeable.any():
        raise InputError(
            "no text of the data set has a gold label, so no test part can be drawn from it; "
            "to label it without a test set data.split.kind: train_only."
        )
    count = round(split.test_share * int(judgeable.sum()))
    return first_in_order(rows, judgeable, count, f"split:{split.seed}")


def _training_parts(
    rows: Scan, train: Mask, config: DataConfig, seed: int
) -> list[tuple[Part, Mask]]:
    """
    Validation first, the same for every seed and size; then the same share of both is kept, so
    that a smaller budget of training rows also pays for its own validation rows.
    """
    total = int(train.sum())
    held_out = round(config.validation_share * total)
    validation = first_in_order(rows, train, held_out, "validation")
    training = train & ~validation
    if config.train_limit is None and config.train_fraction is None:
        return [(Part.TRAIN, training), (Part.VALIDATION, validation)]
    kept = config.train_limit or round((config.train_fraction or 1.0) * total)
    kept_out = round(config.validation_share * kept)
    return [
        (Part.TRAIN, first_in_order(rows, training, kept - kept_out, f"subset:{seed}")),
        (Part.VALIDATION, first_in_order(rows, validation, kept_out, f"subset:{seed}")),
    ]


def _limited(rows: Scan, mask: Mask, limit: int | None, salt: str) -> Mask:
    return mask if limit is None else first_in_order(rows, mask, limit, salt)


def first_in_order(rows: Scan, mask: Mask, count: int, salt: str) -> Mask:
    """
    At most `count` rows of `mask`: whole texts, from the front of one fixed order.

    In that order every label is spread evenly (the i-th of its n texts stands at (i + 1/2) / n),
    so each front of it is stratified to within a text per label, and a smaller count always
    lies within a larger one. Texts of one label are ordered by a hash of text and `salt`:
    neither the order of the rows nor other texts' labels move them.
    """
    keys, text_of, sizes = np.unique(rows.folds[mask], return_inverse=True, return_counts=True)
    label = np.full(len(keys), np.iinfo(np.int16).max, dtype=np.int16)
    np.minimum.at(label, text_of, rows.labels[mask])
    rank = _mixed(keys, salt)
    order = np.lexsort((rank, _evenly_spread(label, rank)))
    fits = int(np.searchsorted(np.cumsum(sizes[order]), count, side="right"))
    taken = np.zeros(len(keys), dtype=np.bool_)
    taken[order[:fits]] = True
    chosen = mask.copy()
    chosen[mask] = taken[text_of]
    return chosen


def _evenly_spread(
    label: npt.NDArray[np.int16], rank: npt.NDArray[np.uint64]
) -> npt.NDArray[np.float64]:
    """(i + 1/2) / n for the i-th of a label's n texts by rank."""
    order = np.lexsort((rank, label))
    _, start, size = np.unique(label[order], return_index=True, return_counts=True)
    place = np.empty(len(label), dtype=np.float64)
    within = np.arange(len(label)) - np.repeat(start, size)
    place[order] = (within + 0.5) / np.repeat(size, size)
    return place


def _mixed(keys: npt.NDArray[np.uint64], salt: str) -> npt.NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014) of key xor salt: one order per salt."""
    start = int.from_bytes(blake2b(salt.encode(), digest_size=8).digest(), "big")
    z = keys ^ np.uint64(start)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _check_gold(rows: Scan, test: Mask, config: DataConfig) -> None:
    blank = np.flatnonzero(test & (rows.labels == NO_LABEL))
    if len(blank):
        raise InputError(
            f"{len(blank)} of {int(test.sum())} test rows have no gold label (first: "
            f"{place_of(config, int(blank[0]))}); a test needs them: name their column with "
            "data.columns.label, or take the rows out."
        )
