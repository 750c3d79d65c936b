"""A teacher whose answers lie in a file: demos, tests, and re-runs without a key."""

from collections.abc import Mapping
from typing import Any

from common.config.teacher import RecordedTeacher
from common.errors import InputError
from common.records import Example, Reason, TeacherAnswer, Unanswered, Usage
from teacher.backends.recordings import Row, open_recordings
from teacher.base import Go, Question, Reply, at_once
from teacher.parsing import AnswerReader, Fault, to_answer
from teacher.prompts import BoundPrompt

_ANSWER_COLUMNS = ("label", "rationale", "confidence")
_FIXED = {"asked": "recorded"}


class Recorded:
    """
    Looks answers up by example id; they pass through the same cache and checks as live ones.

    What the file says of a row is part of the question's key: a changed file never gives a stale
    answer. Where rows carry a `sample` number, sample i is the i-th number in the file: among those
    with rationales when one is wanted, among those without when none is.
    """

    provider = "recorded"
    paid = False
    remote = False
    terms = "As recorded: see the source of the file."

    def __init__(self, config: RecordedTeacher, bound: BoundPrompt):
        self._config = config
        self._file = open_recordings(config.answers, config.id_column, config.only)
        self._numbers = self._usable_numbers(bound.rationale != "none")
        self._reader = AnswerReader(bound, free_text=config.raw_column is not None)
        self.samples = config.samples
        self.model = config.name or str(config.only.get("teacher") or config.answers.stem)
        self.name = self.model

    def _usable_numbers(self, with_rationale: bool) -> list[int]:
        reasoned = self._file.reasoned
        silent = [number for number in self._file.numbers if number not in reasoned]
        numbers = (reasoned or silent) if with_rationale else (silent or reasoned)
        if self._config.samples > len(numbers):
            kind = "with" if with_rationale else "without"
            raise InputError(
                f"teacher.samples: {self._config.samples} are asked for, but {self._file.path} "
                f"has {len(numbers)} sample(s) {kind} rationale."
            )
        return numbers

    def question(self, example: Example, sample: int) -> Question:
        """The recorded row is the payload and, with the text, the identity."""
        row = self._file.find(example.id, self._numbers[sample])
        said = None if row is None else self._said(row)
        return Question(
            example_id=example.id,
            text=example.text,
            sample=sample,
            identity={**_FIXED, "said": said, "text": example.text, "sample": sample},
            payload={"said": said, "model": self._model_of(row)},
        )

    def _said(self, row: Row) -> dict[str, Any]:
        raw = self._config.raw_column
        if raw is None:
            return {name: row[name] for name in _ANSWER_COLUMNS if row.get(name) is not None}
        if raw not in row:
            raise InputError(
                f"teacher.raw_column: {self._file.path} has no column '{raw}'; "
                f"it has {', '.join(sorted(row))}."
            )
        return {"raw": str(row[raw])}

    def _model_of(self, row: Mapping[str, Any] | None) -> str:
        return str((row or {}).get("model") or (row or {}).get("teacher") or self.model)

    def repair(self, question: Question, reply: Reply, fault: Unanswered) -> Question | None:
        """A file says nothing else when asked again."""
        return None

    async def ask(self, question: Question, go: Go = at_once) -> Reply:
        """The recorded row as a reply; an empty body where there is none."""
        await go()
        said = question.payload["said"]
        return Reply(body=said or {}, usage=Usage(), model=question.payload["model"])

    def read(self, question: Question, reply: Reply) -> TeacherAnswer | Unanswered:
        """Validate the recorded answer like any other."""
        body = reply.body
        if not body:
            said: Any = Fault(
                Reason.NOT_RECORDED, f"{self._file.path.name} has no answer for this row."
            )
        elif "raw" in body:
            said = self._reader.read(body["raw"], question.text)
        else:
            said = self._reader.read_object(body, question.text)
        return to_answer(question, self.name, reply, said)

    async def close(self) -> None:
        """Nothing to release: the index stays for the next chunk."""
