"""Where texts come from and how they are split."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from common.config.base import Section


class Columns(Section):
    """Which column of the source holds what. `label` and `split` may be absent from the source."""

    id: str = "id"
    text: str = "text"
    label: str = "label"
    split: str = "split"


class FingptSplit(Section):
    """FinGPT's split: `datasets` train_test_split over the rows in file order."""

    kind: Literal["fingpt"] = "fingpt"
    seed: int = 42
    test_share: float = Field(default=0.25, gt=0, lt=1)


class ColumnSplit(Section):
    """The source says itself which rows are for training and which for the test."""

    kind: Literal["column"] = "column"
    train: str = "train"
    test: str = "test"


class RandomSplit(Section):
    """Stratified by label; equal folded texts stay together. Stable for a seed."""

    kind: Literal["random"] = "random"
    seed: int = 13
    test_share: float = Field(default=0.2, gt=0, lt=1)


class TestOnly(Section):
    """The whole source is for the test: transfer to another data set."""

    kind: Literal["test_only"] = "test_only"


Split = Annotated[FingptSplit | ColumnSplit | RandomSplit | TestOnly, Field(discriminator="kind")]


class DataBase(Section):
    """
    What every source shares.

    `label_map` turns the source's labels (codes too, as text) into the task's; a label it does
    not cover is refused. `validation_share` is cut from the training part, by folded text.
    `train_limit` / `train_fraction` keep a stratified, nested subset of the training part.
    `duplicates` says what to do with test texts that stand in the training part as well (folded
    equal): refuse, drop them from training, or keep and count them (published splits have some).
    """

    name: str | None = None
    label_map: dict[str, str] | None = None
    validation_share: float = Field(default=0.1, ge=0, lt=1)
    train_limit: int | None = Field(default=None, gt=0)
    train_fraction: float | None = Field(default=None, gt=0, le=1)
    test_limit: int | None = Field(default=None, gt=0)
    duplicates: Literal["refuse", "drop_from_train", "keep"] = "refuse"
    near_duplicate_cosine: float = Field(default=0.8, gt=0, le=1)


class FpbData(DataBase):
    """
    Financial PhraseBank v1.0: the release folder or zip at `path`, or from the hub without one.

    `agreement`: the least share of annotators that agree, in percent.
    """

    kind: Literal["fpb"]
    path: Path | None = None
    agreement: Literal[50, 66, 75, 100] = 50
    split: Split = FingptSplit()


class FileData(DataBase):
    """A JSONL, CSV or Parquet file (`test_path`: the test part lies in a file of its own)."""

    kind: Literal["jsonl", "csv", "parquet"]
    path: Path
    test_path: Path | None = None
    encoding: str = "utf-8"
    columns: Columns = Columns()
    split: Split = RandomSplit()


class HubData(DataBase):
    """A data set of the Hugging Face hub, pinned to a revision."""

    kind: Literal["hub"]
    repository: str
    revision: str | None = None
    subset: str | None = None
    train_part: str | None = "train"
    test_part: str | None = "test"
    columns: Columns = Columns()
    split: Split = RandomSplit()


DataConfig = Annotated[FpbData | FileData | HubData, Field(discriminator="kind")]
