"""What the Labels page shows of a run: figures, and answers to browse, filter and set right."""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from common.data.fold import fold
from common.data.store import read_records
from common.records import Answer, Example, TeacherAnswer
from workers.corrections import Correction, Corrections
from workers.run_directory import RunDirectory, read_json

MOST_SCANNED = 200_000
PAGE_ROWS = 25


@dataclass(frozen=True)
class LabelledRow:
    """A text with what was said of it, and a person's word where there is one."""

    example: Example
    answers: list[Any]
    correction: Correction | None

    @property
    def labels(self) -> set[str]:
        """The different labels the teachers gave."""
        return {answer.label for answer in self.answers if isinstance(answer, TeacherAnswer)}


@dataclass(frozen=True)
class Filter:
    """Which rows to show."""

    label: str = ""
    words: str = ""
    only: str = ""

    def takes(self, row: LabelledRow) -> bool:
        """Whether a row is wanted."""
        if self.label and self.label not in row.labels:
            return False
        if self.words and self.words.casefold() not in row.example.text.casefold():
            return False
        match self.only:
            case "unanswered":
                return not row.labels
            case "disagreeing":
                gold = {row.example.label} if row.example.label else set()
                return len(row.labels | gold) > 1
            case "corrected":
                return row.correction is not None
            case _:
                return True


def page_of_rows(
    run: RunDirectory, corrections: Corrections, task: str, wanted: Filter, start: int
) -> tuple[list[LabelledRow], bool]:
    """Up to PAGE_ROWS wanted rows behind the first `start` ones, and whether there are more."""
    rows = (row for row in _rows(run, corrections, task) if wanted.takes(row))
    found = list(islice(rows, start, start + PAGE_ROWS + 1))
    return found[:PAGE_ROWS], len(found) > PAGE_ROWS


def _rows(run: RunDirectory, corrections: Corrections, task: str) -> Any:
    """Texts and answers lie in the same order; several answers may belong to a text."""
    said = corrections.latest(task)
    answers = iter(read_records(run.answers, Answer))
    waiting = next(answers, None)
    examples = read_records(run.part("to_label"), Example)
    for example in islice(examples, MOST_SCANNED):
        own = []
        while waiting is not None and waiting.example_id == example.id:
            own.append(waiting)
            waiting = next(answers, None)
        yield LabelledRow(example, own, said.get(fold(example.text)))


def find_text(run: RunDirectory, text: str) -> LabelledRow | None:
    """The row of a text, were it labelled in this run: what a teacher said costs nothing twice."""
    if not run.answers.exists() or not run.part("to_label").exists():
        return None
    wanted = fold(text)
    rows = _rows(run, Corrections(run.root / ".none"), "none")
    return next((row for row in rows if fold(row.example.text) == wanted), None)


def label_figures(run: RunDirectory) -> dict[str, Any]:
    """The summary and the judgement of the teachers, as collected."""
    return {
        "summary": read_json(run.labels_summary) or {},
        "teachers": read_json(run.labels / "teachers.json") or {},
        "probe": read_json(run.labels / "probe.json") or [],
        "confidence": confidence(run.answers, run.answers.stat().st_mtime_ns),
    }


@lru_cache(maxsize=32)
def confidence(file: Path, stamp: int) -> dict[str, int]:
    """
    How many answers stated a confidence of at least 0.9, 0.7, 0.5, or less.

    Empty where no teacher states any.
    """
    stated = pq.read_table(file, columns=["confidence"], use_threads=False)["confidence"]
    values = [value for value in stated.to_pylist() if value is not None]
    floors = (0.9, 0.7, 0.5, 0.0)
    counts = Counter(next(f for f in floors if value >= f) for value in values)
    names = ("90 % or more", "70 to 90 %", "50 to 70 %", "below 50 %")
    return {name: counts[floor] for name, floor in zip(names, floors, strict=True) if values}
