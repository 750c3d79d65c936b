"""Token probabilities of a rationale: whose text they are, what is kept, and what it costs."""

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest

from common.config.teacher import Aggregation, VllmTeacher
from common.records import Example, TeacherAnswer
from common.task import load_task
from teacher.aggregate import Aggregated, aggregate
from teacher.backends.vllm import Vllm
from teacher.base import Question, Reply
from teacher.prompts import load_prompt
from teacher.rationale_odds import rationale_odds, rationale_window
from tests.doubles import wire_double as wire

RISE = Example(id="r1", text="Quarterly profit rose to EUR 4.1 million, a positive surprise.")


def entry(token: str, **others: float) -> dict[str, Any]:
    def one(text: str, p: float) -> dict[str, Any]:
        return {"token": text, "logprob": math.log(p), "bytes": list(text.encode())}

    tops = [one(token, 0.5), *(one(t.replace("_", " "), p) for t, p in others.items())]
    return {**one(token, 0.5), "top_logprobs": tops}


def reply(*value: str) -> list[dict[str, Any]]:
    lead = ['{"', 'label": "', "positive", '", "', "ration", 'ale": "']
    return [entry(t) for t in [*lead, *value, ', "confidence": 0.9}']]


def test_tokens_inside_the_rationale_are_kept_with_their_places() -> None:
    tokens = reply("Profit", " rose", " by", " €", " 4", '."')

    odds = rationale_odds(tokens, "Profit rose by € 4.")

    assert odds
    # the euro sign takes three bytes; `."` ends the JSON string and is no token of the text
    assert [(o.start, o.token) for o in odds] == [
        *[(0, "Profit"), (6, " rose"), (11, " by"), (14, " €"), (18, " 4")],
    ]
    assert odds[1].top == pytest.approx({" rose": math.log(0.5)})


def test_alternatives_that_end_the_string_are_left_to_the_rest() -> None:
    rose = entry(" rose", **{'."': 0.2, "_fell": 0.1, "\\": 0.1})
    tokens = [entry('{"rationale": "'), entry("Profit"), rose, entry('"}')]

    odds = rationale_odds(tokens, "Profit rose")

    assert odds
    assert odds[1].top.keys() == {" rose", " fell"}


@pytest.mark.parametrize("value", [("It says ", '\\"up', '\\"."'), ("Up 4 ", "\\u20ac", '."')])
def test_a_rationale_written_with_escapes_has_none(value: tuple[str, ...]) -> None:
    text = '"'.join(value).encode().decode("unicode_escape")

    assert rationale_odds(reply(*value), text) is None


def test_a_reply_without_a_rationale_has_none() -> None:
    assert rationale_odds([entry('{"label": "positive"}')], "Profit rose.") is None
    assert rationale_window([entry('{"label": "positive"}')], 3) == {}


def test_a_window_of_the_reply_gives_the_same_odds() -> None:
    tokens = reply("Profit", " rose", " again", '."')
    text = "Profit rose again."

    window = rationale_window(tokens, 1)

    assert list(window) == [3, 4, 5, 6, 7, 8, 9]  # from the quote before the key
    assert rationale_odds(list(window.values()), text) == rationale_odds(tokens, text)


@pytest.fixture
def double() -> Iterator[Any]:
    with wire.WireDouble() as running:
        yield running


def teacher(double: Any, **settings: Any) -> Vllm:
    config = VllmTeacher(kind="vllm", **{"model": "tiny-llama", **settings})
    task = load_task("sentiment")
    bound = load_prompt(task.teacher_prompt).bind(task, config.rationale)
    return Vllm(config, bound, double.url, double.key)


def ask(vllm: Vllm) -> tuple[Question, Reply, TeacherAnswer]:
    async def run() -> tuple[Question, Reply]:
        question = vllm.question(RISE, 0)
        try:
            return question, await vllm.ask(question)
        finally:
            await vllm.close()

    question, reply = asyncio.run(run())
    answer = vllm.read(question, reply)
    assert isinstance(answer, TeacherAnswer)
    return question, reply, answer


@pytest.mark.parametrize("order", ["before_label", "after_label"])
def test_they_come_with_the_answer_where_asked_for(double: Any, order: str) -> None:
    plain_question, plain_reply, plain = ask(teacher(double, rationale=order))
    question, reply, answer = ask(teacher(double, rationale=order, rationale_logprobs=2))

    assert plain.rationale_odds is None
    assert answer.rationale
    assert answer.rationale_odds
    assert answer.probabilities == plain.probabilities
    assert question.key != plain_question.key
    assert len(reply.dump()) > 2 * len(plain_reply.dump())
    written = answer.rationale.encode()
    for odds in answer.rationale_odds:
        token = odds.token.encode()
        assert written[odds.start : odds.start + len(token)] == token
        assert len(odds.top) <= 2
    assert len(answer.rationale_odds) > 5


def test_the_odds_of_the_chosen_rationale_reach_the_label(double: Any) -> None:
    _, _, answer = ask(teacher(double, rationale_logprobs=2))

    [said] = aggregate([answer], load_task("sentiment"), Aggregation(), [answer.teacher])

    assert isinstance(said, Aggregated)
    assert said.rationale == answer.rationale
    assert said.rationale_odds == answer.rationale_odds


def test_a_stored_config_without_them_is_as_before() -> None:
    dumped = VllmTeacher(kind="vllm", model="m").model_dump(mode="json")

    assert "rationale_logprobs" not in dumped


def test_they_need_logprobs_and_a_rationale() -> None:
    for settings in ({"logprobs": False}, {"rationale": "none"}):
        with pytest.raises(ValueError, match="rationale_logprobs needs logprobs"):
            VllmTeacher.model_validate(
                {"kind": "vllm", "model": "m", "rationale_logprobs": 5, **settings}
            )
