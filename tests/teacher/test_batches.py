"""Message batches as a state machine: real Redis, real HTTP, a double of the service."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from common.config.teacher import ClaudeTeacher, LabellingConfig, Pace
from common.errors import JobPaused, TeacherRejected
from common.records import Example, Reason, TeacherAnswer, Unanswered
from common.task import load_task
from teacher import loops
from teacher.backends.claude import Claude
from teacher.backends.claude_batches import ClaudeBatches, batch_job
from teacher.base import Question
from teacher.batch_answers import label_after_batches
from teacher.batch_job import BatchJob, BatchRules
from teacher.batch_ledger import BatchLedger
from teacher.batches import BatchProgress, advance_batches, cancel_batches
from teacher.budget import MemoryPurse, RedisPurse
from teacher.cache import Claim, RedisCache
from teacher.gate import MemoryPaceStore
from teacher.prompts import load_prompt
from teacher.services import LabellingServices, local_services
from tests.doubles import wire_double as wire

RULES = BatchRules(max_requests=10, grace_seconds=0.0, poll_seconds=(0.01, 1.0))


class Crash(BaseException):
    """Stands for the process dying: nothing in the product catches it."""


class Bench:
    """A job on the double: `run` advances it until nothing is left to do."""

    def __init__(self, double: Any, client: redis.Redis, rows: int = 25, job_id: str = "j"):
        self.double, self.client = double, client
        self.texts = [f"Order {i} was placed in the quarter." for i in range(rows)]
        self.counted: Counter[str] = Counter()
        self.passes = 0
        self.purse: Any = MemoryPurse()
        self.ledger = BatchLedger(client)
        self.rules = RULES
        self.job_id, self.key = job_id, double.key
        self.clock: Callable[[], float] = time.time
        self.service: Callable[[Claude], Any] = lambda t: ClaudeBatches(t.client, t.price)

    def teacher(self) -> Claude:
        config = ClaudeTeacher(kind="claude", model="claude-haiku-5-5", mode="batch")
        task = load_task("sentiment")
        bound = load_prompt(task.teacher_prompt).bind(task, config.rationale)
        return Claude(config, bound, self.key, self.double.url)

    def questions(self, teacher: Claude) -> Iterator[Question]:
        self.passes += 1
        for i, text in enumerate(self.texts):
            yield teacher.question(Example(id=str(i), text=text), 0)

    def job(self, teacher: Claude) -> BatchJob:
        services = LabellingServices(
            cache=RedisCache(self.client),
            purse=self.purse,
            paces=lambda name: MemoryPaceStore(Pace()),
            count=lambda **more: self.counted.update(more),
        )
        job = batch_job(teacher, services, self.ledger, self.job_id, self.rules)
        return replace(job, service=self.service(teacher), clock=self.clock)

    def step(self, submit: bool = True) -> BatchProgress:
        async def once() -> BatchProgress:
            teacher = self.teacher()
            try:
                ask = lambda: self.questions(teacher)  # noqa: E731
                return await advance_batches(self.job(teacher), ask, submit)
            finally:
                await teacher.close()

        return asyncio.run(once())

    def run(self, most: int = 30, submit: bool = True) -> BatchProgress:
        for _ in range(most):
            progress = self.step(submit)
            if progress.next_poll_seconds is None:
                return progress
        raise AssertionError(f"not finished: {progress}")

    def cancel(self) -> int:
        async def once() -> int:
            teacher = self.teacher()
            try:
                return await cancel_batches(self.job(teacher))
            finally:
                await teacher.close()

        return asyncio.run(once())

    def answered(self) -> int:
        teacher = self.teacher()
        questions = list(self.questions(teacher))
        found = RedisCache(self.client).look_up([q.key for q in questions])
        read = [teacher.read(q, e.reply) for q, e in zip(questions, found, strict=True) if e]
        return sum(isinstance(answer, TeacherAnswer) for answer in read)


@pytest.fixture
def double() -> Iterator[Any]:
    with wire.WireDouble() as running:
        yield running


@pytest.fixture
def bench(double: Any, client: redis.Redis) -> Bench:
    return Bench(double, client)


def fail_first(kind: str, which: Callable[[Any, int], bool]) -> Callable[[Any, int, str], str]:
    """The chosen requests meet `kind` the first time they are asked, and succeed after that."""
    met: set[str] = set()

    def fate(batch: Any, index: int, key: str) -> str:
        if which(batch, index) and key not in met:
            met.add(key)
            return kind
        return "succeeded"

    return fate


def test_rows_are_cut_into_batches_and_all_come_back_at_half_the_price(bench: Bench) -> None:
    first = bench.step()
    assert [len(batch.requests) for batch in bench.double.batches.values()] == [10, 10, 5]
    assert (first.rows, first.in_batches) == (25, 25)
    assert first.next_poll_seconds

    last = bench.step()

    assert (last.in_batches, last.failed, last.next_poll_seconds) == (0, 0, None)
    assert bench.answered() == 25
    tokens = last.usage
    live = (tokens.input_tokens * 0.1 + tokens.output_tokens * 0.5) / 1e6
    assert tokens.usd == pytest.approx(live / 2)
    assert bench.counted["asked"] == 25
    assert bench.counted["usd"] == pytest.approx(tokens.usd)
    assert bench.purse.money().spent == pytest.approx(tokens.usd)
    assert bench.purse.money().reserved == pytest.approx(0)


def test_a_step_never_waits_for_a_batch(bench: Bench) -> None:
    bench.double.end_batches = False

    start = time.monotonic()
    progress = [bench.step() for _ in range(3)]

    assert time.monotonic() - start < 5
    assert progress[-1].in_batches == 25
    assert len(bench.double.batches) == 3
    assert bench.passes == 1  # the data set is not read again while batches are under way


def test_the_custom_id_is_the_key_of_the_answer_cache(bench: Bench) -> None:
    bench.step()

    [batch, *_] = bench.double.batches.values()
    keys = [question.key for question in bench.questions(bench.teacher())]
    assert [request["custom_id"] for request in batch.requests] == keys[:10]


def test_what_expired_is_submitted_again_and_nothing_else(bench: Bench) -> None:
    bench.double.batch_fate = fail_first("expired", lambda batch, i: batch.id.endswith("1"))

    last = bench.run()

    assert (last.failed, bench.answered()) == (0, 25)
    assert max(bench.double.paid.values()) == 1
    assert [len(batch.requests) for batch in bench.double.batches.values()] == [10, 10, 5, 10]


def test_what_errored_is_submitted_again(bench: Bench) -> None:
    bench.double.batch_fate = fail_first("overloaded_error", lambda _, i: i % 5 == 0)

    assert bench.run().failed == 0
    assert bench.answered() == 25
    assert set(bench.double.paid.values()) == {1}


def test_a_row_that_always_errors_is_one_failed_row(bench: Bench) -> None:
    poison = next(bench.questions(bench.teacher())).key
    bench.double.batch_fate = lambda batch, i, key: "api_error" if key == poison else "succeeded"

    last = bench.run()

    assert (last.failed, bench.answered()) == (1, 24)
    assert "api_error: told to fail" in bench.ledger.failures("j")[poison]
    tried = [r for b in bench.double.batches.values() for r in b.requests]
    assert sum(request["custom_id"] == poison for request in tried) == RULES.max_tries


def test_an_invalid_request_is_not_submitted_again(bench: Bench) -> None:
    bench.double.batch_fate = lambda b, i, k: "invalid_request_error" if i == 3 else "succeeded"

    last = bench.run()

    assert last.failed == 3  # the fourth of each of three batches
    assert len(bench.double.batches) == 3


def test_rows_that_are_cached_are_not_submitted(bench: Bench) -> None:
    bench.run()
    bench.texts.append("One new order.")
    bench.job_id = "second"

    bench.run()

    assert [len(b.requests) for b in bench.double.batches.values()] == [10, 10, 5, 1]


def test_the_same_text_twice_is_submitted_once(bench: Bench) -> None:
    bench.texts = bench.texts[:6] * 2

    last = bench.run()

    assert last.rows == 12
    assert sum(bench.double.paid.values()) == 6


def test_two_jobs_over_the_same_rows_pay_once(bench: Bench) -> None:
    other = Bench(bench.double, bench.client, job_id="other")
    bench.double.end_batches = False
    bench.step()

    waiting = other.step()
    bench.double.end_batches = True
    bench.run()
    last = other.run()

    assert (waiting.held, waiting.in_batches) == (25, 0)
    assert (last.held, last.next_poll_seconds) == (0, None)
    assert set(bench.double.paid.values()) == {1}


def test_a_live_job_does_not_ask_what_lies_in_a_batch(bench: Bench) -> None:
    bench.double.end_batches = False
    bench.step()
    cache = RedisCache(bench.client)
    keys = [question.key for question in bench.questions(bench.teacher())]

    assert set(cache.claim(keys, "live-worker")) == {Claim.HELD}


@pytest.mark.parametrize("moment", ["begin", "reserving", "submitting", "create", "submitted"])
def test_a_crash_at_any_moment_of_submitting_pays_nothing_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    crash_after(bench, moment, monkeypatch)
    with pytest.raises(Crash):
        bench.step()
    monkeypatch.undo()
    bench.service = lambda t: ClaudeBatches(t.client, t.price)

    last = bench.run()

    assert (last.failed, bench.answered()) == (0, 25)
    assert set(bench.double.paid.values()) == {1}
    assert bench.purse.money().spent == pytest.approx(bench.counted["usd"])
    assert bench.purse.money().reserved == pytest.approx(0)


def crash_after(bench: Bench, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die right after the named step of the first batch."""
    if moment == "create":

        class Dying(ClaudeBatches):
            async def create(self, requests: Any) -> str:
                await super().create(requests)
                raise Crash

        bench.service = lambda t: Dying(t.client, t.price)
        return
    original = getattr(bench.ledger, moment)

    def step_and_die(*args: Any) -> None:
        original(*args)
        raise Crash

    monkeypatch.setattr(bench.ledger, moment, step_and_die)


@pytest.mark.parametrize("after", ["store", "note_ends", "close"])
def test_a_crash_at_any_moment_of_collecting_pays_nothing_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    bench.double.batch_fate = fail_first("expired", lambda batch, i: i == 0)
    bench.step()
    owner: Any = RedisCache if after == "store" else BatchLedger
    original = getattr(owner, after)

    def step_and_die(*args: Any, **options: Any) -> None:
        original(*args, **options)
        raise Crash

    monkeypatch.setattr(owner, after, step_and_die)
    with pytest.raises(Crash):
        bench.step()
    monkeypatch.undo()

    last = bench.run()

    assert (last.failed, bench.answered()) == (0, 25)
    assert set(bench.double.paid.values()) == {1}


def test_a_connection_cut_while_submitting_finds_its_batch_again(bench: Bench) -> None:
    bench.double.faults = [wire.Fault("cut", after_work=True)]  # taken, and nobody was told

    first = bench.step()
    assert first.next_poll_seconds
    last = bench.run()

    assert (last.failed, bench.answered()) == (0, 25)
    assert set(bench.double.paid.values()) == {1}
    assert len(bench.double.batches) == 3


def test_a_batch_of_unclear_fate_is_waited_for_before_anything_is_paid_again(bench: Bench) -> None:
    bench.double.end_batches = False
    bench.double.faults = [wire.Fault("cut", after_work=True)]
    bench.step()

    for _ in range(3):
        bench.step()

    sent = [r["custom_id"] for b in bench.double.batches.values() for r in b.requests]
    assert max(Counter(sent).values()) == 1
    bench.double.end_batches = True
    bench.run()
    assert bench.answered() == 25
    assert set(bench.double.paid.values()) == {1}


def test_somebody_elses_batch_of_the_same_size_is_told_apart(bench: Bench) -> None:
    stranger = Bench(bench.double, bench.client, rows=10, job_id="stranger")
    stranger.texts = [f"A foreign text {i}." for i in range(10)]
    bench.double.faults = [wire.Fault("cut", times=1)]  # never reached the service
    bench.step()
    stranger.run()
    # as if another program had submitted it
    bench.client.delete("finstill:batch:ids")

    last = bench.run()

    assert (last.failed, bench.answered()) == (0, 25)
    assert set(bench.double.paid.values()) == {1}


def test_a_busy_service_is_asked_again_later(bench: Bench) -> None:
    bench.double.faults = [wire.Fault("429", headers={"retry-after": "42"})]

    assert bench.step().next_poll_seconds == 42
    bench.run()

    assert bench.answered() == 25
    assert set(bench.double.paid.values()) == {1}


def test_a_wrong_key_ends_the_job_and_leaves_the_rows_free(bench: Bench) -> None:
    bench.key = "wrong"
    with pytest.raises(TeacherRejected, match="ANTHROPIC_API_KEY"):
        bench.step()
    bench.key = bench.double.key

    bench.run()

    assert bench.answered() == 25


def test_a_budget_for_half_the_rows_stops_within_it_and_can_be_resumed(
    bench: Bench, client: redis.Redis
) -> None:
    bench.run()
    cost = bench.purse.money().spent
    client.flushall()
    bench.double.paid.clear()
    bench.purse = RedisPurse(client, "j", max_usd=cost / 2)

    with pytest.raises(JobPaused, match="jobs resume JOB --max-usd"):
        bench.run(most=60)
    spent = bench.purse.money().spent
    bench.purse = RedisPurse(client, "j", max_usd=cost * 2)
    bench.run()

    one_row = next(bench.questions(bench.teacher())).most_usd
    assert cost / 2 - one_row < spent <= cost / 2
    assert bench.answered() == 25
    assert set(bench.double.paid.values()) == {1}


def test_cancelling_keeps_what_was_done_and_asks_nothing_again(bench: Bench) -> None:
    bench.double.end_batches = False
    bench.step()

    assert bench.cancel() == 3
    last = bench.run(submit=False)

    assert (last.canceled, last.failed, last.in_batches) == (25, 0, 0)
    assert len(bench.double.batches) == 3


def test_a_resumed_job_asks_again_what_was_cancelled(bench: Bench) -> None:
    bench.double.end_batches = False
    bench.step()
    bench.cancel()
    bench.run(submit=False)
    bench.double.end_batches = True

    bench.ledger.forgive("j")
    last = bench.run()

    assert (last.canceled, bench.answered()) == (0, 25)


def test_a_second_step_at_once_does_nothing(bench: Bench) -> None:
    with bench.ledger.lock("j") as held:
        progress = bench.step()

    assert held
    assert bench.double.batches == {}
    assert progress.next_poll_seconds


def test_results_that_break_off_are_read_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.step()
    original = wire.WireDouble._result_lines
    cut: list[str] = []

    def break_off(self: Any, batch: Any) -> Iterator[str]:
        lines = list(original(self, batch))
        if not cut:
            cut.append(batch.id)
            lines[4] = lines[4][:20]
        return iter(lines)

    monkeypatch.setattr(wire.WireDouble, "_result_lines", break_off)
    last = bench.run()

    assert cut
    assert (last.failed, bench.answered()) == (0, 25)
    assert set(bench.double.paid.values()) == {1}


def test_polls_become_rarer_as_a_batch_grows_old(bench: Bench) -> None:
    bench.rules = replace(RULES, poll_seconds=(10.0, 300.0))
    bench.double.end_batches = False
    waits = []
    bench.step()

    for age in (0, 600, 36_000):
        bench.clock = lambda age=age: time.time() + age  # type: ignore[misc]
        waits.append(bench.step().next_poll_seconds)

    assert waits == pytest.approx([10, 60, 300], abs=1)


def test_answers_of_finished_batches_are_read_without_a_live_request(bench: Bench) -> None:
    teacher = bench.teacher()
    examples = [Example(id=str(i), text=text) for i, text in enumerate(bench.texts)]
    doomed = {teacher.question(examples[i], 0).key: i for i in (0, 1)}
    fates = ["canceled", "invalid_request_error"]
    bench.double.batch_fate = lambda b, i, k: fates[doomed[k]] if k in doomed else "succeeded"
    bench.run()
    services = local_services(cache=RedisCache(bench.client))

    answers = label_after_batches(
        examples, teacher, LabellingConfig(), services, bench.ledger.failures("j")
    )

    loops.run(teacher.close())
    loops.close_loop()
    assert [answer.example_id for answer in answers] == [example.id for example in examples]
    first, second, *rest = answers
    assert isinstance(first, Unanswered)
    assert isinstance(second, Unanswered)
    assert (first.reason, second.reason) == (Reason.UNAVAILABLE, Reason.REJECTED)
    assert "canceled" in first.detail
    assert all(isinstance(answer, TeacherAnswer) and answer.cached for answer in rest)
    assert not [seen for seen in bench.double.seen if seen.path == "/v1/messages"]


def test_a_redis_that_is_killed_and_restarted_knows_its_batches(double: Any, server: Any) -> None:
    with server.client() as client:
        Bench(double, client).step()
    server.kill()
    server.start()

    with server.client() as client:
        bench = Bench(double, client)
        last = bench.run()
        answered = bench.answered()

    assert (last.failed, answered) == (0, 25)
    assert len(double.batches) == 3
    assert set(double.paid.values()) == {1}
