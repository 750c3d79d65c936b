"""The shared pace: full speed at once, no throttled request after the ramp, nothing lost."""

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from common.config.teacher import LabellingConfig, Pace
from common.records import Example, TeacherAnswer, Unanswered
from teacher.base import Go, Question, RateLimited, Unavailable, at_once
from teacher.cache import MemoryCache
from teacher.gate import MemoryPaceStore, RedisPaceStore
from teacher.labelling import answers_to
from teacher.limits import EARLY_SLOTS, MEMBER_SECONDS, advance
from teacher.pace_state import FIRST_LIMIT, PaceState, Report
from teacher.passage import AHEAD
from teacher.services import local_services

PACE = Pace(max_concurrency=64)
GOOD = {
    "label": "positive",
    "rationale": "Profit rose, which supports earnings.",
    "confidence": 0.9,
}


class Service:
    """Several workers label rows in virtual time; tells how long they took."""

    def __init__(self, loop: Any, make: Callable[..., list[Example]]):
        self.loop, self._make = loop, make
        self.answers: list[Any] = []

    def label(
        self, teacher: Any, rows: int, workers: int, pace: Pace = PACE, chunk: int = 250
    ) -> float:
        self.store = MemoryPaceStore(pace, clock=self.loop.time)
        cache = MemoryCache(clock=self.loop.time)
        base = dataclasses.replace(
            local_services(pace=pace, cache=cache), paces=lambda _name: self.store
        )
        examples = self._make(rows)
        starts = list(range(0, rows, chunk))

        async def work(number: int) -> None:
            while starts:
                start = starts.pop(0)
                services = dataclasses.replace(base, owner=f"w{number}-{start}")
                part = examples[start : start + chunk]
                self.answers += await answers_to(part, teacher, LabellingConfig(), services)

        async def all_workers() -> None:
            await asyncio.gather(*(work(number) for number in range(workers)))

        begin = self.loop.time()
        self.loop.run_until_complete(all_workers())
        return float(self.loop.time() - begin)


@pytest.fixture
def service(virtual_time: Any, examples: Callable[..., list[Example]]) -> Service:
    return Service(virtual_time, examples)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_the_limit_is_reached_at_once_and_never_exceeded(
    service: Service, scripted: Any, workers: int
) -> None:
    teacher = scripted(seconds=0.1)

    seconds = service.label(teacher, 2000, workers)

    assert teacher.most_in_flight == 64
    assert 2000 / 64 * 0.1 / seconds >= 0.9


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_service_that_allows_half_is_found_out_at_little_cost(
    service: Service, scripted: Any, workers: int
) -> None:
    teacher = scripted(seconds=0.1, cap=32)

    service.label(teacher, 400, workers, chunk=100)
    in_ramp = teacher.refused
    assert in_ramp <= 60
    assert set(teacher.asked.values()) == {1}

    teacher = scripted(seconds=0.1, cap=32)
    seconds = service.label(teacher, 3200, workers, chunk=800)
    assert 3200 / 32 * 0.1 / seconds >= 0.75


def test_after_the_ramp_probing_is_rare(service: Service, scripted: Any) -> None:
    teacher = scripted(seconds=0.1, cap=32)

    seconds = service.label(teacher, 8_000, 2, chunk=2000)

    assert seconds < 8_000 / 32 * 0.1 / 0.85
    assert teacher.refused <= 60 + seconds / 15


def test_a_service_that_grows_is_followed(service: Service, scripted: Any) -> None:
    teacher = scripted(seconds=0.5, cap=16)
    service.loop.call_later(5, lambda: setattr(teacher, "cap", 64))

    service.label(teacher, 5_000, 2, chunk=1000)

    assert service.store.state.limit > 48


def test_requests_per_minute_are_kept(service: Service, scripted: Any) -> None:
    starts: list[float] = []

    def behave(_question: Question, _earlier: int) -> Any:
        starts.append(service.loop.time())
        return GOOD

    pace = Pace(max_concurrency=64, requests_per_minute=300)

    seconds = service.label(scripted(behave, seconds=0.1), 300, 3, pace, chunk=50)

    assert seconds == pytest.approx(55, abs=2)  # a burst of five seconds, then 5 a second
    for start in starts:
        assert sum(start <= other < start + 60 for other in starts) <= 325


def test_output_tokens_are_reserved_at_their_limit_and_refunded(
    service: Service, scripted: Any
) -> None:
    # 50 reserved a request, 20 used: were nothing refunded, 200 rows would take 100 seconds
    pace = Pace(max_concurrency=64, output_tokens_per_minute=6000)

    seconds = service.label(scripted(seconds=0.1), 200, 2, pace, chunk=100)

    assert 32 <= seconds <= 42


def test_a_request_larger_than_the_bucket_passes(service: Service, scripted: Any) -> None:
    pace = Pace(max_concurrency=4, input_tokens_per_minute=600)  # bucket 50, a request needs 100

    seconds = service.label(scripted(seconds=0.1), 6, 1, pace)

    assert seconds < 120


def test_retry_after_stops_every_worker(service: Service, scripted: Any) -> None:
    moments: list[float] = []
    refused: list[float] = []

    def behave(_question: Question, _earlier: int) -> Any:
        moments.append(service.loop.time())
        if len(moments) == 200:
            refused.append(service.loop.time())
            return RateLimited("429", 10.0)
        return GOOD

    service.label(scripted(behave, seconds=0.1), 600, 4, chunk=150)

    quiet = [m for m in moments if refused[0] + 0.3 < m < refused[0] + 10.0]
    assert quiet == []
    assert max(moments) > refused[0] + 10.0


def test_a_service_that_queues_is_slowed_down_for(service: Service, scripted: Any) -> None:
    class Queueing(scripted):  # type: ignore[misc]
        """Answers eight at a time; the others wait their turn, as in vLLM."""

        async def ask(self, question: Question, go: Go = at_once) -> Any:
            self._seconds = 0.1 * max(1.0, (self.in_flight + 1) / 8)
            return await super().ask(question, go)

    pace = Pace(max_concurrency=256, slow_factor=4.0)
    teacher = Queueing(seconds=0.1)

    service.label(teacher, 2000, 2, pace, chunk=1000)

    assert service.store.state.limit < 100


def test_requests_are_built_while_they_wait_for_a_slot_but_only_some(
    service: Service, scripted: Any
) -> None:
    standing: list[int] = []

    class Building(scripted):  # type: ignore[misc]
        built = sent = 0

        async def ask(self, question: Question, go: Go = at_once) -> Any:
            self.built += 1
            await go()
            self.sent += 1
            standing.append(self.built - self.sent)
            return await super().ask(question)

    teacher = Building(seconds=0.1)

    service.label(teacher, 200, 1, Pace(max_concurrency=4), chunk=200)

    assert max(standing) == AHEAD - 1
    assert teacher.built == teacher.sent == 200


def test_workers_that_start_together_share_the_first_slots() -> None:
    state = PaceState.start(PACE)
    first = advance(state, Report("a", waiting=500), PACE, 0.0)
    second = advance(state, Report("b", waiting=500), PACE, 0.001)
    again = advance(state, Report("a", in_flight=first.slots, waiting=484), PACE, 0.02)

    assert (first.slots, second.slots) == (EARLY_SLOTS, EARLY_SLOTS)
    assert first.more_soon
    assert again.slots == FIRST_LIMIT // 2


def test_a_request_that_hangs_is_given_up_and_tried_again(service: Service, scripted: Any) -> None:
    class Hanging(scripted):  # type: ignore[misc]
        async def ask(self, question: Question, go: Go = at_once) -> Any:
            if question.example_id == "row-3" and not self.asked[question.key]:
                self.asked[question.key] += 1
                await go()
                await asyncio.sleep(1e6)
            return await super().ask(question, go)

    teacher = Hanging(seconds=0.1)

    seconds = service.label(teacher, 10, 1, Pace(timeout_seconds=60))

    assert 65 <= seconds <= 70
    assert len(teacher.asked) == 10


def test_passing_failures_do_not_lower_the_limit(service: Service, scripted: Any) -> None:
    count = [0]

    def behave(_question: Question, _earlier: int) -> Any:
        count[0] += 1
        return Unavailable("500") if count[0] % 10 == 0 else GOOD

    teacher = scripted(behave, seconds=0.1)

    seconds = service.label(teacher, 2000, 4)

    assert seconds < 8
    assert service.store.state.limit == 64
    assert 2200 < teacher.asked.total() < 2300


def test_refusals_that_are_not_of_our_making_do_not_stop_us(
    service: Service, scripted: Any
) -> None:
    """A service overloaded by others refuses one request in ten, however few we send."""
    count = [0]

    def behave(_question: Question, _earlier: int) -> Any:
        count[0] += 1
        return RateLimited("529: overloaded", None) if count[0] % 10 == 0 else GOOD

    teacher = scripted(behave, seconds=0.1)

    seconds = service.label(teacher, 4000, 4)

    assert len(service.answers) == 4000
    assert all(isinstance(answer, TeacherAnswer) for answer in service.answers)
    assert seconds < 20, "x 0.75 on each of them would take minutes"


@pytest.mark.parametrize("meanwhile", [0, 1])
def test_after_a_burst_of_refusals_the_old_level_is_soon_regained(
    service: Service, scripted: Any, meanwhile: int
) -> None:
    """For two seconds in five the service takes `meanwhile` requests at a time, else 64."""
    teacher = scripted(seconds=0.1, cap=64)

    def close(_: object = None) -> None:
        teacher.cap = meanwhile
        service.loop.call_later(2, reopen)

    def reopen() -> None:
        teacher.cap = 64
        service.loop.call_later(3, close)

    service.loop.call_later(1, close)

    seconds = service.label(teacher, 4000, 2)

    assert len(service.answers) == 4000
    assert 4000 / 64 * 0.1 / seconds > 0.25, "0.6 would be perfect, 0.03 is without"


def test_patience_with_refusals_ends_where_they_are_of_our_making(
    service: Service, scripted: Any
) -> None:
    """The service refuses one in ten for a while, and then takes eight at a time only."""
    count = [0]

    def behave(_question: Question, _earlier: int) -> Any:
        count[0] += 1
        if service.loop.time() < 5 and count[0] % 10 == 0:
            return RateLimited("529: overloaded", None)
        if service.loop.time() >= 5:
            teacher.cap = 8
        return GOOD

    teacher = scripted(behave, seconds=0.1)

    service.label(teacher, 3000, 4)

    assert len(service.answers) == 3000
    assert teacher.refused < 300, teacher.refused


def test_a_row_that_always_fails_holds_its_chunk_up_for_seconds_only(
    service: Service, scripted: Any
) -> None:
    def behave(question: Question, _earlier: int) -> Any:
        return Unavailable("500") if question.example_id == "row-7" else GOOD

    assert service.label(scripted(behave, seconds=0.1), 500, 2) < 6
    assert [a.example_id for a in service.answers if isinstance(a, Unanswered)] == ["row-7"]


def test_an_outage_of_a_quarter_of_a_minute_is_sat_out(service: Service, scripted: Any) -> None:
    def behave(_question: Question, _earlier: int) -> Any:
        return Unavailable("502") if service.loop.time() < 14 else GOOD

    teacher = scripted(behave, seconds=0.1)

    service.label(teacher, 300, 2)

    assert len(service.answers) == 300
    assert all(isinstance(answer, TeacherAnswer) for answer in service.answers)


def test_a_dead_workers_slots_come_back() -> None:
    state = PaceState.start(Pace(max_concurrency=8))
    advance(state, Report("dead", in_flight=0, waiting=100), PACE, 0.0)

    before = advance(state, Report("alive", waiting=100), PACE, 1.0)
    after = advance(state, Report("alive", waiting=100), PACE, MEMBER_SECONDS + 2)

    assert before.slots == 0
    assert after.slots == 8


def test_a_new_worker_gets_its_fair_share() -> None:
    state = PaceState.start(Pace(max_concurrency=8))
    assert advance(state, Report("a", waiting=100), PACE, 0.0).slots == 8
    advance(state, Report("b", waiting=100), PACE, 0.1)

    shrunk = advance(state, Report("a", in_flight=8, waiting=90), PACE, 0.2)
    advance(state, Report("a", in_flight=4, waiting=90), PACE, 0.3)
    grown = advance(state, Report("b", waiting=100), PACE, 0.4)

    assert (shrunk.slots, grown.slots) == (4, 4)


def test_one_round_of_refusals_is_one_cut() -> None:
    state = PaceState(limit=64, ramping=False, round_trip=0.1)

    advance(state, Report("a", in_flight=20, throttled=5, retry_after=1.0), PACE, 10.0)
    advance(state, Report("b", in_flight=20, throttled=7, retry_after=1.0), PACE, 10.05)

    assert state.limit == 48
    assert state.paused_until == pytest.approx(11.05)
    advance(state, Report("b", in_flight=20, throttled=1), PACE, 11.5)
    assert state.limit == 36


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.integers(0, 20), st.integers(0, 50), st.integers(0, 20),
            st.integers(0, 3), st.floats(0, 5),
        ),
        max_size=40,
    )
)  # fmt: skip
def test_slots_handed_out_never_exceed_the_limit(
    steps: list[tuple[str, int, int, int, int, float]],
) -> None:
    state, now = PaceState.start(PACE), 0.0
    for owner, in_flight, waiting, finished, throttled, passed in steps:
        now += passed
        held = state.members[owner].held if owner in state.members else 0
        report = Report(
            owner, min(in_flight, held), waiting, finished, finished * 0.1, throttled, 0.5
        )

        grant = advance(state, report, PACE, now)

        assert 1 <= state.limit <= 64
        others = sum(m.held for name, m in state.members.items() if name != owner)
        assert grant.slots == 0 or grant.slots + others <= state.limit + 1e-6
        copy = PaceState.load(json.loads(json.dumps(state.dump())))
        assert copy == state


def test_in_redis_workers_share_one_state_and_agree_on_time(client: redis.Redis) -> None:
    first, second = (RedisPaceStore(client, "s", Pace(max_concurrency=10)) for _ in range(2))

    one = first.exchange(Report("a", waiting=100))
    two = second.exchange(Report("b", waiting=100))
    second.exchange(Report("b", waiting=100, throttled=1, retry_after=30.0))
    three = first.exchange(Report("a", in_flight=10, waiting=90))

    assert (one.slots, two.slots) == (10, 0)
    assert 29 < three.pause <= 30
    assert client.ttl("finstill:pace:s") > 0


def test_in_redis_no_report_is_lost_between_threads(client: redis.Redis) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def report(number: int) -> None:
        store = RedisPaceStore(client, "s", PACE)
        for _ in range(25):
            store.exchange(Report(f"w{number}", throttled=1, retry_after=0.0))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(report, range(4)))

    raw = client.get("finstill:pace:s")
    assert isinstance(raw, bytes)
    assert json.loads(raw)["throttled"] == 100
