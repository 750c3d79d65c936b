"""Answers that somebody else gave to the judged texts: a teacher's, or another system's output."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.evaluation.comparison import Judged
from common.evaluation.evaluate import evaluate_system
from common.labels import LabelSet
from common.records import Example, Prediction, SystemCard, TeacherAnswer
from common.task import load_task
from teacher.backends.recordings import Recordings, open_recordings
from workers.judged_texts import JudgedTexts
from workers.run_directory import Run, read_json
from workers.systems import Outside


def outside_of(word: str, role: str) -> Outside:
    """An `Outside` from NAME=FILE. Raises InputError for anything else."""
    name, equals, path = word.partition("=")
    if not (name and equals and path) or "/" in name:
        raise InputError(f"--{role} '{word}' is not of the form NAME=FILE, e.g. fingpt=said.jsonl.")
    return Outside(name, Path(path), "teacher" if role == "teacher" else "baseline")


def teacher_answers(
    outside: Sequence[Outside], texts: JudgedTexts, run: Run
) -> dict[str, TeacherAnswer]:
    """What the first teacher given says of each judged text that it has a readable answer to."""
    teacher = next((each for each in outside if each.role == "teacher"), None)
    if teacher is None:
        return {}
    return {
        said.example_id: TeacherAnswer(
            example_id=said.example_id,
            teacher=teacher.name,
            label=said.label,
            rationale=said.rationale,
            probabilities=said.probabilities,
        )
        for said in read_outside(teacher, texts.gold, run)
        if said.label is not None
    }


def judged_outside(
    outside: Sequence[Outside], texts: JudgedTexts, run: Run
) -> tuple[list[Judged], list[str]]:
    """
    Each of them judged like any system, and notes on those that cannot be.

    A teacher that left texts out stands beside the texts it answered, not in the table; any
    other system must have answered them all. Raises InputError where it has not.
    """
    config = run[1]
    judged, notes = [], []
    for each in outside:
        said = read_outside(each, texts.gold, run)
        if len(said) < len(texts.gold):
            counted = f"{len(said):,} of the {len(texts.gold):,} judged texts"
            if each.role != "teacher" or not said:
                raise InputError(
                    f"{each.path} has answers of '{each.name}' to {counted}; one row with "
                    "the id of each text is needed."
                )
            notes.append(f"Teacher {each.name} answered {counted}: it is not in the table.")
            continue
        title = f"{each.name} (teacher)" if each.role == "teacher" else each.name
        price = _price(each.name, run) if each.role == "teacher" else None
        card = SystemCard(name=each.name, role=each.role, title=title, usd_per_1000=price)
        report = evaluate_system(
            card, texts.gold, said, load_task(config.task), config.evaluation, texts.dataset,
            texts.fingerprint, near_duplicates=texts.near_duplicates,
        )  # fmt: skip
        judged.append(Judged(report, said))
    return judged, notes


def _price(teacher: str, run: Run) -> float | None:
    """Dollars per 1,000 texts that the run's labelling job paid this teacher, where it did."""
    summary = read_json(run[0].labels_summary) or {}
    for facts in summary.get("teachers") or []:
        if facts["teacher"] == teacher and facts.get("usd") and facts.get("answers"):
            return 1000 * float(facts["usd"]) / int(facts["answers"])
    return None


def read_outside(outside: Outside, gold: Sequence[Example], run: Run) -> list[Prediction]:
    """
    The recorded answers to these texts, found by id; those without a row are left out.

    A row has `label`, or `raw` with what was generated: that is read as strictly as any answer,
    and by the task's lenient reading beside. `rationale` and `probabilities` are optional.
    """
    recorded = open_recordings(outside.path, None, {})
    labels = load_task(run[1].task).label_set
    found = ((example, _row(recorded, example.id)) for example in gold)
    return [_prediction(e, row, labels, outside.path) for e, row in found if row is not None]


def _row(recorded: Recordings, example_id: str) -> Mapping[str, Any] | None:
    rows = (recorded.find(example_id, number) for number in recorded.numbers)
    return next((row for row in rows if row is not None), None)


def _prediction(
    example: Example, row: Mapping[str, Any], labels: LabelSet, path: Path
) -> Prediction:
    raw, label = row.get("raw"), row.get("label")
    if raw is None and label is None:
        raise InputError(f"{path}: the row of '{example.id}' has neither `label` nor `raw`.")
    return Prediction(
        example_id=example.id,
        label=labels.parse(str(label if raw is None else raw)),
        probabilities=row.get("probabilities"),
        rationale=row.get("rationale") or None,
        raw=None if raw is None else str(raw),
    )
