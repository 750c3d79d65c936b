"""
Labels that a person set right: kept with author and time, to be used as gold.

One append-only JSONL per task in a folder that API and workers share; the last word on a text
counts. A text is known by its folded form, so a correction holds for every run that has the text.
A run takes over what was said when it is submitted, and keeps to that until it is submitted again:
a correction made meanwhile must not pull the data from under stages at work.
"""

import fcntl
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

from common.data.fold import fold
from common.data.store import read_records
from common.errors import InputError
from common.records import Example, Record
from workers.run_directory import RunDirectory, write_json

_PARTS = ("train", "validation", "test")
_TASK = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class Correction(Record):
    """What `author` said of a text at `at` (seconds since 1970). `label` None: to be looked at."""

    text: str
    label: str | None
    before: str | None
    author: str
    at: float
    note: str = ""
    kind: Literal["flag", "correct", "withdraw"]


class Corrections:
    """The corrections of one folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def add(self, task: str, correction: Correction) -> None:
        """Append; several writers at once keep their lines whole."""
        path = self._path(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        line = correction.model_dump_json() + "\n"
        with path.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())

    def history(self, task: str) -> list[Correction]:
        """Everything that was ever said, oldest first; a line cut off by a crash is passed over."""
        try:
            lines = self._path(task).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                found.append(Correction.model_validate_json(line))
            except ValueError:
                continue
        return found

    def latest(self, task: str) -> dict[str, Correction]:
        """Folded text -> the last word on it, withdrawn ones left out."""
        last = {fold(correction.text): correction for correction in self.history(task)}
        return {text: c for text, c in last.items() if c.kind != "withdraw"}

    def labels(self, task: str) -> dict[str, str]:
        """Folded text -> the label that counts; flags say none."""
        return {text: c.label for text, c in self.latest(task).items() if c.label}

    def pin(self, run: RunDirectory, task: str, known: Collection[str]) -> None:
        """
        Let a run that is not at work go by what was said until now.

        Nothing changes where no gold label of its data would; labels that the task (`known`) does
        not have are left out.
        """
        wanted = {text: label for text, label in self.labels(task).items() if label in known}
        pinned = run.corrections
        if wanted != pinned and (not run.split_file.exists() or _changes(run, pinned, wanted)):
            write_json(run.corrections_file, wanted)

    def export(self, task: str) -> Iterator[str]:
        """The corrected texts as JSONL rows `text, label`, ready to be a data set."""
        for correction in self.latest(task).values():
            if correction.label:
                row = {"text": correction.text, "label": correction.label,
                       "author": correction.author, "at": correction.at}  # fmt: skip
                yield json.dumps(row, ensure_ascii=False) + "\n"

    def _path(self, task: str) -> Path:
        if not _TASK.fullmatch(task):
            raise InputError(f"'{task[:64]}' is the name of no task.")
        return self.folder / f"{task}.jsonl"


def corrected(example: Example, labels: Mapping[str, str]) -> Example:
    """The example, with the label of its folded text as gold where there is one."""
    label = labels.get(fold(example.text)) if labels else None
    return example.model_copy(update={"label": label}) if label else example


def _changes(run: RunDirectory, pinned: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a row of the prepared data, which has the pinned labels, would get another label."""
    for part in _PARTS:
        for example in read_records(run.part(part), Example):
            text = fold(example.text)
            if wanted.get(text, example.label) != example.label:
                return True
            if text in pinned and text not in wanted:
                return True
    return False
