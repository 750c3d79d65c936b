"""From a teacher's raw text to a label and its reasons, or to the reason why not. No guessing."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import from_json

from common.labels import LabelSet
from common.records import Reason, TeacherAnswer, Unanswered
from teacher.base import Question, Reply
from teacher.prompts import BoundPrompt
from teacher.rationales import RationaleCheck

Stop = Literal["complete", "truncated", "refused"]

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.S | re.I)
# The end of the user's turn in the chat templates of Llama 2 / Mistral and Llama 3: what stands
# before it in a raw generation is the prompt, repeated.
_TURN_ENDS = ("[/INST]", "<|start_header_id|>assistant<|end_header_id|>", "<|im_start|>assistant")
_REFUSAL = re.compile(
    r"^\W*(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:cannot|can't|won't|will not)\b"
    r"|as an ai\b|sorry, (?:but )?i\b|i apologi[sz]e)",
    re.I,
)
_NO_REASON = {"", "fail", "n/a", "na", "none", "null", "-", "error"}
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Reading:
    """A reply that was understood and found fit."""

    label: str
    rationale: str | None
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Fault:
    """A reply that cannot be used; `detail` is a sentence fit for a repair message."""

    reason: Reason
    detail: str


class AnswerReader:
    """
    Reads the raw text of one prompt's replies.

    `free_text` also accepts "label, line break, reasons" (raw generations without a schema).
    """

    def __init__(self, bound: BoundPrompt, free_text: bool = False):
        self._labels: LabelSet = bound.task.label_set
        self._names = ", ".join(bound.task.label_names)
        self._keys = frozenset(bound.keys)
        self._wants_rationale = bound.rationale != "none"
        self._free_text = free_text
        self._check = RationaleCheck(self._labels, bound.system, bound.prompt.language)

    def read(self, raw: str, text: str, stop: Stop = "complete") -> Reading | Fault:
        """`raw` is the reply's text, `text` what was asked about. Never raises."""
        if stop == "refused" or _REFUSAL.match(raw):
            return Fault(Reason.REFUSED, "the service or the model declined to answer.")
        if stop == "truncated":
            return Fault(Reason.TRUNCATED, "it was cut off at the limit of output tokens.")
        reply = after_echo(raw)
        if not reply:
            return Fault(Reason.EMPTY, "it was empty.")
        found = find_object(reply)
        if found is not None:
            return self.read_object(found, text)
        if self._free_text:
            return self._read_free_text(reply, text)
        return Fault(Reason.NOT_JSON, "it is not a JSON object.")

    def read_object(self, found: Mapping[str, Any], text: str) -> Reading | Fault:
        """Judge an answer that is already an object with label, rationale and confidence."""
        return self._schema_fault(found) or self._judge(
            found["label"], found.get("rationale"), found.get("confidence"), text
        )

    def _schema_fault(self, found: Mapping[str, Any]) -> Fault | None:
        if not isinstance(found.get("label"), str):
            return Fault(Reason.SCHEMA, 'it has no text under "label".')
        strangers = found.keys() - self._keys - {"rationale", "confidence"}
        if strangers:
            return Fault(Reason.SCHEMA, f"it has unknown keys: {', '.join(sorted(strangers))}.")
        if not isinstance(found.get("rationale", ""), str | None):
            return Fault(Reason.SCHEMA, 'its "rationale" is not a text.')
        confidence = found.get("confidence")
        if confidence is not None and not _is_share(confidence):
            return Fault(Reason.SCHEMA, 'its "confidence" is not a number between 0 and 1.')
        return None

    def _read_free_text(self, reply: str, text: str) -> Reading | Fault:
        first, _, rest = reply.partition("\n")
        return self._judge(first, rest.strip(), None, text)

    def _judge(
        self, said: str, rationale: str | None, confidence: float | None, text: str
    ) -> Reading | Fault:
        label = self._labels.parse(said)
        if label is None:
            return Fault(
                Reason.UNKNOWN_LABEL, f'"{said[:40]}" is not one of the labels {self._names}.'
            )
        if not self._wants_rationale:
            return Reading(label, None, confidence)
        reasons = (rationale or "").strip()
        if reasons.strip(" .").lower() in _NO_REASON:
            return Fault(Reason.NO_RATIONALE, "it gives no rationale.")
        fault = self._check.fault(reasons, label, text)
        return Fault(*fault) if fault else Reading(label, reasons, confidence)


def to_answer(
    question: Question,
    teacher: str,
    reply: Reply,
    outcome: Reading | Fault,
    probabilities: dict[str, float] | None = None,
) -> TeacherAnswer | Unanswered:
    """The record of one reply, whichever way the reading went."""
    if isinstance(outcome, Fault):
        return Unanswered(
            example_id=question.example_id,
            teacher=teacher,
            sample=question.sample,
            reason=outcome.reason,
            detail=outcome.detail,
            key=question.key,
            usage=reply.usage,
        )
    return TeacherAnswer(
        example_id=question.example_id,
        teacher=teacher,
        sample=question.sample,
        label=outcome.label,
        rationale=outcome.rationale,
        confidence=outcome.confidence,
        probabilities=probabilities,
        model=reply.model,
        key=question.key,
        usage=reply.usage,
    )


def after_echo(raw: str) -> str:
    """What follows the repeated prompt in a raw generation; all of it where nothing is repeated."""
    if raw.lstrip().startswith("{"):
        return raw.strip()
    for end in _TURN_ENDS:
        raw = raw.rpartition(end)[2]
    return raw.strip()


def find_object(reply: str) -> dict[str, Any] | None:
    """The JSON object in a reply: bare, fenced, or after some words; the last one where several."""
    try:
        whole = from_json(reply)
    except ValueError:
        pass
    else:
        return whole if isinstance(whole, dict) else None
    fenced = _FENCE.findall(reply)
    for part in [*reversed(fenced), reply]:
        objects = _objects(part)
        if objects:
            return objects[-1]
    return None


def _objects(part: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    start = part.find("{")
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(part, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            if isinstance(value, dict):
                found.append(value)
        start = part.find("{", end)
    return found


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
