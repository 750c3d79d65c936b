"""Claude live, against a wire-level double that refuses what the service refuses."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from common.config.teacher import ClaudeTeacher
from common.errors import TeacherRejected, UsageError
from common.records import Example, Reason, TeacherAnswer, Unanswered
from common.task import load_task
from teacher.backends.claude import API_VERSION, Claude
from teacher.base import Question, RateLimited, Reply, RowRejected, Unavailable
from teacher.prompts import load_prompt
from tests.doubles import wire_double as wire

RISE = Example(id="r1", text="Quarterly profit rose to EUR 4.1 million, a positive surprise.")


@pytest.fixture
def double() -> Iterator[Any]:
    with wire.WireDouble() as running:
        yield running


def claude(double: Any, key: str | None = None, **settings: Any) -> Claude:
    config = ClaudeTeacher(kind="claude", **{"model": "claude-haiku-5-5", **settings})
    task = load_task("sentiment")
    bound = load_prompt(task.teacher_prompt).bind(task, config.rationale)
    return Claude(config, bound, double.key if key is None else key, double.url)


def exchange(teacher: Claude, *examples: Example) -> list[tuple[Question, Reply]]:
    async def run() -> list[tuple[Question, Reply]]:
        asked = [teacher.question(example, 0) for example in examples]
        try:
            return [(question, await teacher.ask(question)) for question in asked]
        finally:
            await teacher.close()

    return asyncio.run(run())


def ask(teacher: Claude, example: Example = RISE) -> TeacherAnswer | Unanswered:
    [(question, reply)] = exchange(teacher, example)
    return teacher.read(question, reply)


def test_a_question_is_answered_with_label_rationale_and_confidence(double: Any) -> None:
    answer = ask(claude(double))

    assert isinstance(answer, TeacherAnswer)
    assert (answer.label, answer.confidence) == ("positive", 0.9)
    assert answer.rationale == "The company reports a change that moves its expected earnings."
    assert answer.model == "claude-haiku-5-5-20261007"  # as the service reported it


def test_the_request_is_what_the_service_accepts_and_nothing_it_refuses(double: Any) -> None:
    exchange(claude(double), RISE)

    [seen] = double.seen
    assert seen.headers["anthropic-version"] == API_VERSION
    assert seen.body["thinking"] == {"type": "disabled"}
    assert seen.body["max_tokens"] == 256
    assert next(iter(seen.body["output_config"]["format"]["schema"]["properties"])) == "label"
    assert seen.body["messages"][-1]["content"].endswith("</sentence>")
    assert not {"temperature", "top_p", "top_k", "stream"} & seen.body.keys()


def test_dollars_come_from_the_tokens_the_service_counted(double: Any) -> None:
    [(question, reply)] = exchange(claude(double), RISE)

    usage = reply.usage
    assert usage.input_tokens == reply.body["usage"]["input_tokens"] > 0
    assert usage.usd == pytest.approx((usage.input_tokens * 0.1 + usage.output_tokens * 0.5) / 1e6)
    assert 0 < usage.usd <= question.most_usd


def test_prompt_cache_reads_and_writes_are_counted_apart() -> None:
    from teacher.backends.claude import tokens_of

    tokens = tokens_of(
        {
            "input_tokens": 40,
            "output_tokens": 7,
            "cache_read_input_tokens": 5000,
            "cache_creation_input_tokens": 600,
            "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 100},
        }
    )

    assert (tokens.input, tokens.cache_read, tokens.cache_write, tokens.cache_write_1h) == (
        *(40, 5000, 500, 100),
    )


def test_a_thinking_block_before_the_text_is_passed_over(double: Any) -> None:
    teacher = claude(double, thinking=True, effort="low")

    [(question, reply)] = exchange(teacher, RISE)

    assert [block["type"] for block in reply.body["content"]] == ["thinking", "text"]
    assert isinstance(teacher.read(question, reply), TeacherAnswer)
    assert double.seen[0].body["output_config"]["effort"] == "low"


def test_a_reply_cut_at_max_tokens_is_truncated(double: Any) -> None:
    answer = ask(claude(double, max_output_tokens=20))

    assert isinstance(answer, Unanswered)
    assert answer.reason is Reason.TRUNCATED
    assert answer.usage.output_tokens == 20  # paid all the same


def test_a_refusal_is_refused_and_not_asked_again(double: Any) -> None:
    double.stop_reason = "refusal"
    teacher = claude(double)

    [(question, reply)] = exchange(teacher, RISE)

    answer = teacher.read(question, reply)
    assert isinstance(answer, Unanswered)
    assert answer.reason is Reason.REFUSED
    assert teacher.repair(question, reply, answer) is None


def test_a_repair_continues_the_conversation_under_a_key_of_its_own(double: Any) -> None:
    double.write = lambda text, schema: json.dumps({"label": "bullish-ish", "rationale": "x"})
    teacher = claude(double)
    question, reply = exchange(teacher, RISE)[0]
    fault = teacher.read(question, reply)
    assert isinstance(fault, Unanswered)

    repair = teacher.repair(question, reply, fault)

    assert repair is not None
    assert repair.key != question.key
    *before, said, wanted = repair.payload["messages"]
    assert before == question.payload["messages"]
    assert said["role"] == "assistant"
    assert "bullish-ish" in said["content"]
    assert "bullish-ish" in wanted["content"]
    assert repair.input_tokens > question.input_tokens
    assert repair.most_usd > question.most_usd


def test_a_repaired_answer_is_not_repaired_again(double: Any) -> None:
    double.write = lambda text, schema: "nonsense"
    teacher = claude(double)
    question, reply = exchange(teacher, RISE)[0]
    fault = teacher.read(question, reply)
    assert isinstance(fault, Unanswered)
    repair = teacher.repair(question, reply, fault)
    assert repair

    assert teacher.repair(repair, reply, fault) is None


@pytest.mark.parametrize(
    ("kind", "headers", "error", "after"),
    [
        ("429", {"retry-after": "7"}, RateLimited, 7.0),
        ("429", {"retry-after-ms": "250", "retry-after": "9"}, RateLimited, 0.25),
        ("429", {"retry-after": "soon"}, RateLimited, None),
        ("529", {}, RateLimited, None),
        ("503", {}, RateLimited, None),
        ("500", {"retry-after": "2"}, Unavailable, 2.0),
        ("408", {}, Unavailable, None),
        ("cut", {}, Unavailable, None),
        ("truncated", {}, Unavailable, None),
        ("not_json", {}, Unavailable, None),
    ],
)
def test_passing_failures_say_when_to_come_back(
    double: Any, kind: str, headers: dict[str, str], error: type[Exception], after: float | None
) -> None:
    double.faults = [wire.Fault(kind, headers=headers)]

    with pytest.raises(error) as caught:
        exchange(claude(double), RISE)

    assert getattr(caught.value, "retry_after", None) == after


def test_a_request_is_sent_once_and_never_retried_here(double: Any) -> None:
    double.faults = [wire.Fault("500", times=9)]

    with pytest.raises(Unavailable):
        exchange(claude(double), RISE)

    assert len(double.seen) == 1


def test_a_service_that_hangs_is_unavailable_after_the_timeout(double: Any) -> None:
    double.faults = [wire.Fault("hang")]

    with pytest.raises(Unavailable, match="did not answer in time"):
        exchange(claude(double, pace={"timeout_seconds": 0.2}), RISE)


def test_nobody_listening_is_unavailable(double: Any) -> None:
    double.url = "http://127.0.0.1:9"  # discard port: nothing answers

    with pytest.raises(Unavailable, match="connection to Claude failed"):
        exchange(claude(double), RISE)


@pytest.mark.parametrize("kind", ["400", "413", "422"])
def test_a_request_refused_by_itself_is_that_row_alone(double: Any, kind: str) -> None:
    double.faults = [wire.Fault(kind)]

    with pytest.raises(RowRejected, match=f"Claude answered {kind}: told to answer"):
        exchange(claude(double), RISE)


def test_a_wrong_key_ends_the_job_with_the_cure(double: Any) -> None:
    with pytest.raises(TeacherRejected, match=r"401: invalid bearer token; set ANTHROPIC_API_KEY"):
        exchange(claude(double, key="wrong"), RISE)


def test_a_model_the_service_does_not_know_ends_the_job_with_the_cure(double: Any) -> None:
    double.models = {"claude-haiku-4-5"}

    with pytest.raises(TeacherRejected, match=r"404: model: claude-haiku-5-5; check teacher.model"):
        exchange(claude(double), RISE)


def test_no_key_is_told_before_anything_is_sent(double: Any) -> None:
    with pytest.raises(TeacherRejected, match="set ANTHROPIC_API_KEY"):
        claude(double, key="")


def test_a_model_without_a_price_is_refused(double: Any) -> None:
    with pytest.raises(UsageError, match="no price for 'claude-next'"):
        claude(double, model="claude-next")


def test_the_key_covers_what_can_change_the_answer_and_nothing_else(double: Any) -> None:
    base = claude(double).question(RISE, 0)
    twin = Example(id="other", text=RISE.text, label="neutral")

    same = claude(double, pace={"timeout_seconds": 5}, mode="batch", name="c").question(twin, 0)
    changed = [
        claude(double).question(RISE, 1),
        claude(double, model="claude-haiku-4-5").question(RISE, 0),
        claude(double, max_output_tokens=255).question(RISE, 0),
        claude(double, thinking=True).question(RISE, 0),
        claude(double, effort="low").question(RISE, 0),
        claude(double, rationale="before_label").question(RISE, 0),
        claude(double).question(Example(id="r1", text=RISE.text + " "), 0),
    ]

    assert same.key == base.key
    assert len({base.key, *(question.key for question in changed)}) == 8


def test_batches_reserve_half_the_money_and_their_repairs_all_of_it(double: Any) -> None:
    double.write = lambda text, schema: "nonsense"
    live, batch = claude(double), claude(double, mode="batch")
    question, reply = exchange(claude(double), RISE)[0]
    fault = live.read(question, reply)
    assert isinstance(fault, Unanswered)

    half, whole = batch.question(RISE, 0), live.question(RISE, 0)
    repairs = [t.repair(q, reply, fault) for t, q in ((batch, half), (live, whole))]

    assert half.most_usd == pytest.approx(whole.most_usd / 2)
    assert repairs[0]
    assert repairs[1]
    assert repairs[0].most_usd == pytest.approx(repairs[1].most_usd)


def test_a_short_prompt_is_not_marked_for_a_cache_that_would_not_keep_it(double: Any) -> None:
    exchange(claude(double), RISE)

    assert isinstance(double.seen[0].body["system"], str)


def test_many_questions_share_one_connection(double: Any) -> None:
    examples = [Example(id=str(i), text=f"Order {i} is neutral news.") for i in range(5)]

    replies = exchange(claude(double), *examples)

    assert len(replies) == 5
    assert sum(double.asked.values()) == 5


def test_the_double_refuses_what_the_service_refuses(double: Any) -> None:
    client = anthropic.Anthropic(api_key=double.key, base_url=double.url, max_retries=0)
    shared: Any = {"model": "claude-haiku-5-5", "messages": [{"role": "user", "content": "x"}]}

    with client:
        with pytest.raises(anthropic.BadRequestError, match="temperature: Extra inputs"):
            client.messages.create(**shared, max_tokens=9, extra_body={"temperature": 0})
        with pytest.raises(anthropic.BadRequestError, match="max_tokens: Field required"):
            client.post("/v1/messages", body=shared, cast_to=object)
