"""What all chat services share: a question's shape, its repair, and reading a reply's text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from common.fingerprint import digest
from common.records import Example, Reason, TeacherAnswer, Unanswered
from teacher.base import Question, Reply
from teacher.parsing import AnswerReader, Stop, to_answer
from teacher.prompts import BoundPrompt
from teacher.terms import terms_of

# Nothing was said that could be pointed at, or nothing else will be said.
_BEYOND_REPAIR = {Reason.REFUSED, Reason.REJECTED, Reason.UNAVAILABLE}


class ChatForm:
    """
    Builds questions whose payload ends in `messages`, and reads the text of their replies.

    `fixed` is the constant part of the payload; `sampling` what of it is not in the prompt and
    can change an answer (model, API version, temperature, effort, limits). `price_of_tokens`
    gives dollars for (prompt, output) tokens. `system_turn`: the system text is the first message.
    Token numbers are estimates from bytes: 3.5 to a token on average, and at least 2 for the
    price's upper bound.
    """

    def __init__(
        self,
        bound: BoundPrompt,
        fixed: Mapping[str, Any],
        sampling: Mapping[str, Any],
        price_of_tokens: Callable[[int, int], float],
        system_turn: bool = False,
    ):
        self._bound = bound
        self._fixed = dict(fixed)
        self._identity = {"asked": digest({**sampling, "prompt": bound.fingerprint})}
        self._reader = AnswerReader(bound)
        self._price_of_tokens = price_of_tokens
        system = {"role": "system", "content": bound.system}
        self._opening = [system] if system_turn and bound.system else []
        # Claude is told the schema by the service, at our cost; chat templates add only roles.
        added = 40 if system_turn else 600
        self._prefix_bytes = _size([system, *bound.messages("")]) + added

    def question(self, example: Example, sample: int, max_output_tokens: int) -> Question:
        """The question of one example; its text stands last so that prefixes can be cached."""
        size = self._prefix_bytes + len(example.text.encode())
        messages = [*self._opening, *self._bound.messages(example.text)]
        return Question(
            example_id=example.id,
            text=example.text,
            sample=sample,
            identity={**self._identity, "text": example.text, "sample": sample},
            payload={**self._fixed, "messages": messages},
            input_tokens=_estimate(size),
            max_output_tokens=max_output_tokens,
            most_usd=self._price_of_tokens(size // 2, max_output_tokens),
        )

    def repair(self, question: Question, raw: str, fault: Unanswered) -> Question | None:
        """The conversation so far and what was wrong with it; None after a refusal."""
        if fault.reason in _BEYOND_REPAIR or "repair" in question.identity:
            return None
        # the services refuse an empty assistant turn
        said = {"role": "assistant", "content": raw or "(no answer)"}
        asked = {"role": "user", "content": self._bound.repair_message(fault.detail)}
        size = _size([said, asked])
        return replace(
            question,
            identity={**question.identity, "repair": [said["content"], asked["content"]]},
            payload={**question.payload, "messages": [*question.payload["messages"], said, asked]},
            input_tokens=question.input_tokens + _estimate(size),
            most_usd=question.most_usd + self._price_of_tokens(size // 2, 0),
        )

    def read(
        self,
        question: Question,
        reply: Reply,
        teacher: str,
        said: tuple[str, Stop],
        probabilities: dict[str, float] | None = None,
    ) -> TeacherAnswer | Unanswered:
        """Validate the text of a reply against schema, labels and the rules for rationales."""
        outcome = self._reader.read(said[0], question.text, said[1])
        return to_answer(question, teacher, reply, outcome, probabilities)


def terms_flag(*names: str) -> str:
    """What configs/terms.yaml says of a teacher, short enough to lie beside every answer."""
    terms = terms_of(names)
    return f"{terms.service}: {terms.training}" if terms else "not in configs/terms.yaml"


def _size(messages: Sequence[Mapping[str, str]]) -> int:
    return sum(len(text.encode()) for message in messages for text in message.values())


def _estimate(size: int) -> int:
    return int(size / 3.5) + 1
