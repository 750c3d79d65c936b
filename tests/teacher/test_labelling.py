"""The one loop: asked once, paid once, kept always; single rows fail as values."""

import asyncio
import dataclasses
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis

from common.config.teacher import LabellingConfig, Pace
from common.errors import JobCancelled, JobPaused, TeacherError, TeacherRejected
from common.records import Example, Reason, TeacherAnswer, Unanswered
from teacher.base import Question, RateLimited, RowRejected, Unavailable
from teacher.cache import AnswerCache
from teacher.labelling import label_examples
from teacher.services import LabellingServices, local_services, redis_services

LABELLING = LabellingConfig()
GOOD = {
    "label": "positive",
    "rationale": "Profit rose, which supports earnings.",
    "confidence": 0.9,
}
Make = Callable[..., list[Example]]


async def no_sleep(_seconds: float) -> None:
    await asyncio.sleep(0)


def quick(cache: AnswerCache | None = None, **changes: Any) -> LabellingServices:
    return dataclasses.replace(local_services(cache=cache), sleep=no_sleep, **changes)


def test_every_sample_of_every_example_is_answered_in_order(scripted: Any, examples: Make) -> None:
    answers = label_examples(examples(3), scripted(samples=2), LABELLING, quick())

    assert [(a.example_id, a.sample) for a in answers] == [
        ("row-0", 0), ("row-0", 1), ("row-1", 0), ("row-1", 1), ("row-2", 0), ("row-2", 1),
    ]  # fmt: skip
    first = answers[0]
    assert isinstance(first, TeacherAnswer)
    assert (first.label, first.confidence, first.model) == ("positive", 0.9, "script-1.0")
    assert first.usage.usd == 0.001
    assert not first.cached


def test_the_second_time_nothing_is_asked(
    scripted: Any, examples: Make, cache: AnswerCache
) -> None:
    teacher = scripted()
    before = label_examples(examples(20), teacher, LABELLING, quick(cache))

    after = label_examples(examples(20), teacher, LABELLING, quick(cache))

    assert teacher.asked.total() == 20
    assert all(a.cached for a in after)
    assert [a.model_copy(update={"cached": False}) for a in after] == before


def test_one_new_row_costs_one_request(scripted: Any, examples: Make, cache: AnswerCache) -> None:
    teacher = scripted()
    label_examples(examples(50), teacher, LABELLING, quick(cache))

    label_examples(examples(51), teacher, LABELLING, quick(cache))

    assert teacher.asked.total() == 51


def test_a_text_that_stands_twice_is_paid_once(scripted: Any, examples: Make) -> None:
    teacher = scripted()
    twice = examples(5) + [e.model_copy(update={"id": e.id + "b"}) for e in examples(5)]

    answers = label_examples(twice, teacher, LABELLING, quick())

    assert teacher.asked.total() == 5
    assert [a.example_id for a in answers] == [e.id for e in twice]
    assert sum(a.usage.usd for a in answers if not a.cached) == pytest.approx(0.005)


def test_a_row_that_always_fails_is_one_unanswered_row(scripted: Any, examples: Make) -> None:
    def behave(question: Question, _earlier: int) -> Any:
        return Unavailable("500") if question.example_id == "row-3" else GOOD

    teacher = scripted(behave)

    answers = label_examples(examples(20), teacher, LABELLING, quick())

    failed = [a for a in answers if isinstance(a, Unanswered)]
    assert [(a.example_id, a.reason) for a in failed] == [("row-3", Reason.UNAVAILABLE)]
    assert max(teacher.asked.values()) == Pace().max_attempts


def test_a_failed_row_is_asked_again_by_the_next_run(
    scripted: Any, examples: Make, cache: AnswerCache
) -> None:
    broken = scripted(lambda q, _: RowRejected("400") if q.example_id == "row-1" else GOOD)
    label_examples(examples(3), broken, LABELLING, quick(cache))
    mended = scripted()

    answers = label_examples(examples(3), mended, LABELLING, quick(cache))

    assert all(isinstance(a, TeacherAnswer) for a in answers)
    assert mended.asked.total() == 1


def test_passing_failures_are_retried_with_growing_jittered_waits(
    scripted: Any, examples: Make
) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    teacher = scripted(lambda _q, earlier: Unavailable("500") if earlier < 3 else GOOD)
    services = dataclasses.replace(local_services(), sleep=note, dice=lambda: 0.0)

    answers = label_examples(examples(1), teacher, LABELLING, services)

    assert isinstance(answers[0], TeacherAnswer)
    assert waits == [0.125, 0.375, 1.125]


def test_retry_after_is_obeyed_even_where_it_is_longer(scripted: Any, examples: Make) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    teacher = scripted(lambda _q, earlier: Unavailable("502", 7.0) if earlier < 1 else GOOD)

    label_examples(
        examples(1), teacher, LABELLING, dataclasses.replace(local_services(), sleep=note)
    )

    assert waits == [7.0]


def test_being_throttled_is_no_failed_attempt(scripted: Any, examples: Make) -> None:
    teacher = scripted(lambda _q, earlier: RateLimited("429", 0.0) if earlier < 10 else GOOD)

    answers = label_examples(examples(1), teacher, LABELLING, quick())

    assert isinstance(answers[0], TeacherAnswer)


def test_one_rejected_row_is_a_value_and_is_not_retried(scripted: Any, examples: Make) -> None:
    teacher = scripted(
        lambda q, _: RowRejected("400: too long") if q.example_id == "row-0" else GOOD
    )

    answers = label_examples(examples(10), teacher, LABELLING, quick())

    assert isinstance(answers[0], Unanswered)
    assert (answers[0].reason, answers[0].detail) == (Reason.REJECTED, "400: too long")
    assert set(teacher.asked.values()) == {1}


def test_a_service_that_refuses_us_ends_the_job_at_once(scripted: Any, examples: Make) -> None:
    teacher = scripted(lambda _q, _e: TeacherRejected("401: set ANTHROPIC_API_KEY."))

    with pytest.raises(TeacherRejected, match="set ANTHROPIC_API_KEY"):
        label_examples(examples(500), teacher, LABELLING, quick())
    assert teacher.asked.total() <= Pace().max_concurrency


@pytest.mark.parametrize(
    ("error", "kind"),
    [(RowRejected("400: bad schema"), TeacherRejected), (Unavailable("500"), TeacherError)],
)
def test_when_no_row_works_the_job_ends_instead_of_failing_row_by_row(
    scripted: Any, examples: Make, error: Exception, kind: type[Exception]
) -> None:
    teacher = scripted(lambda _q, _e: error)

    with pytest.raises(kind, match="answered none of the first"):
        label_examples(examples(500), teacher, LABELLING, quick())
    assert max(teacher.asked.values()) <= Pace().max_attempts
    assert teacher.spent == 0


def test_an_unusable_answer_is_repaired_once(
    scripted: Any, examples: Make, cache: AnswerCache
) -> None:
    def behave(question: Question, _earlier: int) -> Any:
        return GOOD if "repairs" in question.identity else {"raw": "positive, I think"}

    teacher = scripted(behave)

    answers = label_examples(examples(4), teacher, LABELLING, quick(cache))
    again = label_examples(examples(4), teacher, LABELLING, quick(cache))

    assert all(isinstance(a, TeacherAnswer) for a in answers + again)
    assert teacher.asked.total() == 8
    assert answers[0].usage.usd == pytest.approx(0.002)
    assert all(a.cached for a in again)


def test_what_repair_does_not_mend_is_unanswered_and_not_asked_a_third_time(
    scripted: Any, examples: Make, cache: AnswerCache
) -> None:
    teacher = scripted(lambda _q, _e: {"raw": "no idea"})

    for _ in range(2):
        answers = label_examples(examples(4), teacher, LABELLING, quick(cache))

    assert [a.reason for a in answers if isinstance(a, Unanswered)] == [Reason.NOT_JSON] * 4
    assert teacher.asked.total() == 8


def test_repair_can_be_switched_off(scripted: Any, examples: Make) -> None:
    teacher = scripted(lambda _q, _e: {"raw": "no idea"})

    label_examples(examples(4), teacher, LabellingConfig(repair=False), quick())

    assert teacher.asked.total() == 4


def test_a_rationale_longer_than_wanted_is_a_fault(scripted: Any, examples: Make) -> None:
    labelling = LabellingConfig(repair=False, max_rationale_words=5)

    answers = label_examples(examples(1), scripted(), labelling, quick())

    assert isinstance(answers[0], TeacherAnswer)
    answers = label_examples(
        examples(1), scripted(), labelling.model_copy(update={"max_rationale_words": 4}), quick()
    )
    assert isinstance(answers[0], Unanswered)
    assert answers[0].reason is Reason.RATIONALE_LENGTH


def test_cancelling_keeps_what_was_in_flight(
    scripted: Any, examples: Make, cache: AnswerCache
) -> None:
    teacher = scripted(seconds=0.05)
    services = quick(cache, cancelled=lambda: teacher.asked.total() > 20)

    with pytest.raises(JobCancelled):
        label_examples(examples(600), teacher, LABELLING, services)

    assert teacher.asked.total() < 600
    label_examples(examples(600), teacher, LABELLING, quick(cache))
    assert set(teacher.asked.values()) == {1}


def test_an_interruption_keeps_what_was_in_flight(
    scripted: Any, examples: Make, cache: AnswerCache
) -> None:
    def behave(_question: Question, _earlier: int) -> Any:
        if teacher.asked.total() >= 90 and not interrupted:
            interrupted.append(True)
            asyncio.get_running_loop().call_soon(_interrupt)
        return GOOD

    def _interrupt() -> None:
        raise KeyboardInterrupt

    interrupted: list[bool] = []
    teacher = scripted(behave, seconds=0.01)

    with pytest.raises(KeyboardInterrupt):
        label_examples(examples(300), teacher, LABELLING, quick(cache))

    label_examples(examples(300), teacher, LABELLING, quick(cache))
    assert set(teacher.asked.values()) == {1}


def test_the_budget_pauses_the_job_below_its_limit_and_a_larger_one_goes_on(
    scripted: Any, examples: Make, cache: AnswerCache
) -> None:
    labelling = LabellingConfig(max_usd=0.1)
    teacher = scripted(seconds=0.001, usd=0.001, most_usd=0.002)
    services = local_services(labelling, cache=cache)

    with pytest.raises(JobPaused, match=r"budget of \$0.10 is reached"):
        label_examples(examples(200), teacher, labelling, services)

    assert 0.098 <= teacher.spent <= 0.1
    assert services.purse.money().spent == pytest.approx(teacher.spent)
    label_examples(examples(200), teacher, LABELLING, local_services(cache=cache))
    assert set(teacher.asked.values()) == {1}


def test_counters_tell_what_happened(scripted: Any, examples: Make) -> None:
    counters: Counter[str] = Counter()

    def behave(question: Question, earlier: int) -> Any:
        if question.example_id == "row-0":
            return RowRejected("400")
        return Unavailable("500") if question.example_id == "row-1" and not earlier else GOOD

    services = quick(count=lambda **deltas: counters.update(deltas))
    teacher = scripted(behave)
    label_examples(examples(10), teacher, LABELLING, services)
    label_examples(examples(10)[1:], teacher, LABELLING, services)

    assert counters["done"] == 19
    assert counters["cached"] == 9
    assert counters["asked"] == 9
    assert counters["failed"] == 1
    assert counters["retried"] == 1
    assert counters["usd"] == pytest.approx(0.009)
    assert (counters["input_tokens"], counters["output_tokens"]) == (9 * 90, 9 * 20)


def test_two_jobs_over_the_same_rows_pay_once(
    scripted: Any, examples: Make, client: redis.Redis
) -> None:
    teacher = scripted(seconds=0.02)
    results: list[list[Any]] = []

    def job(name: str) -> None:
        from teacher.loops import close_loop

        services = redis_services(client, name, LABELLING, Pace(max_concurrency=16))
        results.append(label_examples(examples(100), teacher, LABELLING, services))
        close_loop()

    threads = [threading.Thread(target=job, args=(f"job-{i}",)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(teacher.asked.values()) == {1}
    assert [len(answers) for answers in results] == [100, 100]
    assert all(isinstance(a, TeacherAnswer) for answers in results for a in answers)
