"""
Where texts come from and how they are split.

    data: {kind: fpb, path: FinancialPhraseBank-v1.0, duplicates: keep}

    data:
      kind: csv
      path: sent_train.csv
      test_path: sent_valid.csv
      label_map: {0: negative, 1: positive, 2: neutral}
      duplicates: drop_from_train

    data: {kind: hub, repository: owner/name, test_part: validation, columns: {text: sentence}}

    data: {kind: jsonl, path: texts.jsonl, split: {kind: train_only}}      # labelling only
"""

import codecs
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from common.config.base import Section, Seed

FPB_REPOSITORY = "takala/financial_phrasebank"
FPB_LICENCE = (
    "Texts: Financial PhraseBank v1.0 (Malo et al. 2014), CC BY-NC-SA 3.0, non-commercial."
)


def _codes_as_text(value: Any) -> Any:
    """YAML reads `{0: negative}` with a number as key; a source's codes are compared as text."""
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else value


class Columns(Section):
    """
    Which column of the source holds what.

    The columns `id`, `label` and `split` may be absent under their default names: ids are then
    numbered, labels unknown. `meta` names further columns to carry along with every example.
    """

    id: str = "id"
    text: str = "text"
    label: str = "label"
    split: str = "split"
    meta: list[str] = Field(default_factory=list)


class FingptSplit(Section):
    """FinGPT's split: `datasets` train_test_split over the rows in file order."""

    kind: Literal["fingpt"] = "fingpt"
    seed: Seed = 42
    test_share: float = Field(default=0.25, gt=0, lt=1)


class ColumnSplit(Section):
    """The source says itself which rows are for training and which for the test."""

    kind: Literal["column"] = "column"
    train: str = "train"
    test: str = "test"


class RandomSplit(Section):
    """Stratified by label; equal folded texts stay together. Stable for a seed."""

    kind: Literal["random"] = "random"
    seed: Seed = 13
    test_share: float = Field(default=0.2, gt=0, lt=1)


class TestOnly(Section):
    """The whole source is for the test: transfer to another data set."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    kind: Literal["test_only"] = "test_only"


class TrainOnly(Section):
    """The whole source is for training: texts to be labelled by a teacher, without a test."""

    kind: Literal["train_only"] = "train_only"


Split = Annotated[
    FingptSplit | ColumnSplit | RandomSplit | TestOnly | TrainOnly, Field(discriminator="kind")
]


class DataBase(Section):
    """
    What every source shares.

    `label_map` turns the source's labels (codes too, as text) into the task's; a label it does
    not cover is refused. `validation_share` is cut from the training part, by folded text; the
    same texts for every seed. `train_limit` / `train_fraction` keep a stratified part of the
    training rows, validation included, nested per seed of the run: 0.06 lies within 0.12.
    `licence` is told wherever the texts, or what was made from them, are described.
    `duplicates` says what to do with test texts that stand in the training part as well (folded
    equal): refuse, drop them from training, or keep and count them (published splits have some).
    Test texts nearer to a training text than `near_duplicate_cosine` are counted, never dropped.
    """

    name: str | None = None
    licence: str | None = None
    label_map: Annotated[dict[str, str] | None, BeforeValidator(_codes_as_text)] = None
    validation_share: float = Field(default=0.1, ge=0, lt=1)
    train_limit: int | None = Field(default=None, gt=0)
    train_fraction: float | None = Field(default=None, gt=0, le=1)
    test_limit: int | None = Field(default=None, gt=0)
    duplicates: Literal["refuse", "drop_from_train", "keep"] = "refuse"
    near_duplicate_cosine: float = Field(default=0.8, gt=0, le=1)

    @property
    def licences(self) -> list[str]:
        """Under what the texts are: `licence`, else that of a source known here, else nothing."""
        return [told] if (told := self.licence or self._known_licence()) else []

    @property
    def bare_licences(self) -> list[str]:
        """The same for a card, whose own heading says that they are of the texts."""
        return [licence.removeprefix("Texts: ") for licence in self.licences]

    def _known_licence(self) -> str | None:
        return None

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.train_limit and self.train_fraction:
            raise ValueError("give `train_limit` or `train_fraction`, not both")
        return self


class FpbData(DataBase):
    """
    Financial PhraseBank v1.0: the release folder or zip at `path` (or a JSONL of it with
    id, sentence, label, agreement), or from the hub without one.

    `agreement`: the least share of annotators that agree, in percent.
    """

    kind: Literal["fpb"]
    path: Path | None = None
    agreement: Literal[50, 66, 75, 100] = 50
    split: Split = FingptSplit()

    def _known_licence(self) -> str | None:
        return FPB_LICENCE

    @field_validator("split")
    @classmethod
    def _no_column(cls, split: Split) -> Split:
        if isinstance(split, ColumnSplit):
            raise ValueError("the Financial PhraseBank has no split column; read it as kind: jsonl")
        return split


class FileData(DataBase):
    """
    A JSONL, CSV or Parquet file (`test_path`: the test part lies in a file of its own).

    `encoding` is for JSONL and CSV, `delimiter` for CSV ("\\t" for tabs).
    """

    kind: Literal["jsonl", "csv", "parquet"]
    path: Path
    test_path: Path | None = None
    encoding: str = "utf-8"
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    columns: Columns = Columns()
    split: Split = RandomSplit()

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str) -> str:
        try:
            return codecs.lookup(name).name
        except LookupError as error:
            raise ValueError("no such encoding; use utf-8, latin-1, cp1252 or utf-16") from error

    @model_validator(mode="after")
    def _split_once(self) -> Self:
        if self.test_path and self.split != RandomSplit():
            raise ValueError("`test_path` already splits the data; leave out `split`")
        return self


class HubData(DataBase):
    """
    A data set of the Hugging Face hub, pinned to a revision; or a local folder of its files.

    With `train_part` and `test_part` the parts are as published; with one of them null, `split`
    divides the other.
    """

    kind: Literal["hub"]
    repository: str
    revision: str | None = None
    subset: str | None = None
    train_part: str | None = "train"
    test_part: str | None = "test"
    columns: Columns = Columns()
    split: Split = RandomSplit()

    def _known_licence(self) -> str | None:
        return FPB_LICENCE if self.repository.lower() == FPB_REPOSITORY else None

    @model_validator(mode="after")
    def _some_part(self) -> Self:
        if not (self.train_part or self.test_part):
            raise ValueError("name `train_part` or `test_part`, or both")
        if self.train_part and self.test_part and self.split != RandomSplit():
            raise ValueError(
                "`split` needs one part to divide: set `train_part` or `test_part` to null"
            )
        return self


DataConfig = Annotated[FpbData | FileData | HubData, Field(discriminator="kind")]
