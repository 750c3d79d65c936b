"""Opinions as arrays: a block of rows to decide on, or an even sample of all rows to learn from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from teacher.votes import Opinion

NOBODY = -1  # no label: the teacher was not asked, gave no usable answer, or there is no gold
MOST_ROWS = 50_000  # an accuracy of 0.9 over so many rows is good to ±0.3 percentage points


@dataclass(frozen=True)
class VoteTable:
    """
    What each teacher said of each row.

    `said` int16 [rows, teachers], index of the label or NOBODY; `sure` bool [rows, teachers];
    `shares` float32 [rows, teachers, labels], the vote shares of a teacher's samples;
    `gold` int16 [rows], NOBODY where unknown; `probe` bool [rows], rows whose gold the learning
    may see and which therefore judge nobody.
    """

    teachers: tuple[str, ...]
    labels: tuple[str, ...]
    said: NDArray[np.int16]
    sure: NDArray[np.bool_]
    shares: NDArray[np.float32]
    gold: NDArray[np.int16]
    probe: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.said)

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Rows with gold that nothing was learned from."""
        return np.asarray((self.gold != NOBODY) & ~self.probe)

    def rows(self, chosen: NDArray[np.bool_]) -> "VoteTable":
        """The chosen rows."""
        return replace(
            self,
            said=self.said[chosen],
            sure=self.sure[chosen],
            shares=self.shares[chosen],
            gold=self.gold[chosen],
            probe=self.probe[chosen],
        )

    def without(self, teacher: str) -> "VoteTable":
        """The table as if one teacher had never been asked."""
        kept = [i for i, name in enumerate(self.teachers) if name != teacher]
        return replace(
            self,
            teachers=tuple(self.teachers[i] for i in kept),
            said=self.said[:, kept],
            sure=self.sure[:, kept],
            shares=self.shares[:, kept],
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One row before it enters a table; `gold` is a label's name."""

    opinions: Mapping[str, Opinion]
    gold: str | None = None
    probe: bool = False


def vote_table(rows: Sequence[Row], teachers: Sequence[str], labels: Sequence[str]) -> VoteTable:
    """Rows as arrays."""
    size, width = (len(rows), len(teachers)), len(labels)
    code = {label: index for index, label in enumerate(labels)}
    said = np.full(size, NOBODY, np.int16)
    sure = np.zeros(size, np.bool_)
    shares = np.zeros((*size, width), np.float32)
    for i, row in enumerate(rows):
        for j, teacher in enumerate(teachers):
            if (opinion := row.opinions.get(teacher)) is not None:
                said[i, j] = code[opinion.label]
                sure[i, j] = opinion.sure
                shares[i, j] = opinion.shares
    gold = [NOBODY if row.gold is None else code[row.gold] for row in rows]
    return VoteTable(
        tuple(teachers),
        tuple(labels),
        said,
        sure,
        shares,
        np.array(gold, np.int16).reshape(len(rows)),
        np.array([row.probe for row in rows], np.bool_).reshape(len(rows)),
    )


class EvenSample:
    """
    Every k-th row of a stream of unknown length, at most `most` of them; k is a power of two.

    Without chance: the same answers give the same sample. Rows of the probe are always kept.
    """

    def __init__(self, most: int = MOST_ROWS):
        self._most = most
        self._step = 1
        self._seen = 0
        self._kept: list[Row] = []
        self._probe: list[Row] = []

    def offer(self, make: Callable[[], Row], probe: bool = False) -> None:
        """The next row of the stream; it is made only if it is wanted."""
        if probe:
            self._probe.append(make())
            return
        if self._seen % self._step == 0:
            self._kept.append(make())
        self._seen += 1
        if len(self._kept) > self._most:
            self._kept = self._kept[::2]
            self._step *= 2

    def rows(self) -> list[Row]:
        """What was kept."""
        return [*self._probe, *self._kept]
