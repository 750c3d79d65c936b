"""What preparing a data set found and did: the numbers a data card and a report show."""

from typing import Literal

from pydantic import Field

from common.records import Record


class PartCounts(Record):
    """Rows of one part, in all, by gold label and without one."""

    rows: int
    labels: dict[str, int]
    unlabelled: int


class Duplicates(Record):
    """
    Test texts that stand, folded equal, on the training side as well.

    `action` is the config's word for what to do with any. `ids`: the test rows.
    `removed_from_train`: training rows that gave way to them.
    """

    count: int
    action: Literal["refuse", "drop_from_train", "keep"]
    removed_from_train: int = 0
    ids: list[str] = Field(default_factory=list)


class NearDuplicates(Record):
    """
    Test rows at or above `cosine` to some text of the training side (before limits), folded
    equal ones included. `count` None: not counted, `note` says why.
    """

    cosine: float
    count: int | None
    ids: list[str] = Field(default_factory=list)
    note: str = ""


class SplitReport(Record):
    """
    How a source was split.

    `fingerprint` is a digest over folded texts, labels and parts: the same data gives the same
    one wherever the file lies and in whatever order its rows stand. `surplus_rows` repeat an
    earlier folded text of the source; `conflicting_texts` carry two gold labels.
    `left_out` counts rows by the split value that is neither the train nor the test one.
    """

    schema_version: Literal[1] = 1
    source: str
    rows: int
    parts: dict[str, PartCounts]
    unused_rows: int
    fingerprint: str
    duplicates: Duplicates
    near_duplicates: NearDuplicates
    surplus_rows: int
    conflicting_texts: int
    left_out: dict[str, int] = Field(default_factory=dict)

    @property
    def unlabelled_train(self) -> int:
        """Training and validation rows without a gold label."""
        return self.parts["train"].unlabelled + self.parts["validation"].unlabelled

    def sentences(self) -> list[str]:
        """What a person should know of this split, most important first."""
        sizes = ", ".join(f"{part.rows:,} {name}" for name, part in self.parts.items())
        found = [f"{self.source}: {self.rows:,} rows read; {sizes}."]
        if self.duplicates.count:
            found.append(
                f"Test texts that also stand in the training part: {self.duplicates.count} "
                f"({self._what_was_done()})."
            )
        found.append(self._near_duplicates())
        if self.surplus_rows:
            found.append(f"Rows that repeat an earlier text: {self.surplus_rows:,}.")
        if self.conflicting_texts:
            found.append(f"Texts with two different gold labels: {self.conflicting_texts:,}.")
        if self.unlabelled_train:
            found.append(f"Training rows without a gold label: {self.unlabelled_train:,}.")
        if self.left_out:
            words = ", ".join(f"{n:,} of '{word}'" for word, n in sorted(self.left_out.items()))
            found.append(f"Left out by the split column: {words}.")
        return found

    def _what_was_done(self) -> str:
        if self.duplicates.action == "drop_from_train":
            return f"training rows taken out for them: {self.duplicates.removed_from_train}"
        return "kept, as published"

    def _near_duplicates(self) -> str:
        near = self.near_duplicates
        if near.count is None:
            return f"Near-duplicates were {near.note}."
        return (
            f"Test rows at TF-IDF cosine {near.cosine:g} or above to a training row: {near.count}."
        )
