"""Never more than the budget, and nearly all of it, however many workers there are."""

import asyncio
import threading
from typing import Any

import pytest
import redis

from common.config.teacher import LabellingConfig, Pace
from common.errors import JobPaused
from teacher.budget import MemoryPurse, Purse, RedisPurse, Wallet, raise_budget
from teacher.cache import RedisCache
from teacher.labelling import label_examples
from teacher.loops import close_loop
from teacher.services import redis_services


@pytest.fixture(params=["memory", "redis"])
def purse(request: pytest.FixtureRequest) -> Purse:
    """A purse of one dollar whose owners `a` and `b` are alive."""
    if request.param == "memory":
        return MemoryPurse(1.0)
    client = request.getfixturevalue("client")
    for owner in "ab":
        RedisCache(client).beat(owner)
    return RedisPurse(client, "job", 1.0)


def test_a_reservation_takes_at_least_what_is_needed_and_at_most_a_quarter(purse: Purse) -> None:
    assert purse.reserve("a", 0.1, 10.0).usd == pytest.approx(0.25)
    assert purse.reserve("a", 0.5, 10.0).usd == pytest.approx(0.5)
    assert purse.reserve("a", 0.5, 10.0).usd == 0.0


def test_what_is_returned_can_be_reserved_again_and_what_is_spent_cannot(purse: Purse) -> None:
    purse.reserve("a", 1.0, 1.0)

    purse.settle("a", spent=0.3, returned=0.7)

    assert purse.money().spent == pytest.approx(0.3)
    assert purse.reserve("a", 0.8, 0.8).usd == 0.0
    assert purse.reserve("a", 0.7, 0.7).usd == pytest.approx(0.7)


def test_others_reservations_are_told_apart_from_ones_own(purse: Purse) -> None:
    purse.reserve("a", 0.9, 0.9)

    assert purse.reserve("a", 0.5, 0.5).others_open is False
    assert purse.reserve("b", 0.5, 0.5).others_open is True


def test_without_a_limit_spending_is_still_counted(client: redis.Redis) -> None:
    for purse in (MemoryPurse(), RedisPurse(client, "free")):
        assert purse.reserve("a", 5.0, 9.0).usd >= 5.0
        purse.settle("a", spent=4.0, returned=0.0)
        assert purse.money().spent == pytest.approx(4.0)


def test_a_raised_budget_holds_for_every_worker_from_then_on(client: redis.Redis) -> None:
    assert RedisPurse(client, "poor", 1.0).reserve("a", 2.0, 2.0).usd == 0.0

    raise_budget(client, "poor", 3.0)

    assert RedisPurse(client, "poor", 1.0).reserve("a", 2.0, 2.0).usd == pytest.approx(2.0)
    assert RedisPurse(client, "other", 1.0).reserve("a", 2.0, 2.0).usd == 0.0


def test_what_a_dead_worker_held_counts_as_spent_until_it_speaks(client: redis.Redis) -> None:
    purse, cache = RedisPurse(client, "job", 1.0), RedisCache(client)
    cache.beat("dead")
    purse.reserve("dead", 0.4, 0.4)
    client.delete("finstill:alive:dead")

    cache.beat("b")
    assert purse.reserve("b", 0.7, 0.7).usd == 0.0
    assert purse.money().lost == pytest.approx(0.4)
    purse.settle("dead", spent=0.1, returned=0.3)
    assert purse.money().lost == pytest.approx(0.0)
    assert purse.reserve("b", 0.7, 0.7).usd == pytest.approx(0.7)


def test_a_wallet_waits_for_money_under_way_before_it_gives_up() -> None:
    purse = MemoryPurse(1.0)
    purse.reserve("other", 0.8, 0.8)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            purse.settle("other", spent=0.1, returned=0.7)

    async def take() -> None:
        await Wallet(purse, "me", sleep).take(0.5)

    asyncio.run(take())

    assert len(waits) == 3


def test_a_wallet_of_a_spent_purse_pauses_the_job() -> None:
    async def take() -> None:
        await Wallet(MemoryPurse(0.1), "me").take(0.2)

    with pytest.raises(JobPaused, match=r"the budget of \$0.10 is reached"):
        asyncio.run(take())


def test_eight_workers_spend_all_but_two_percent_and_never_more(
    scripted: Any, examples: Any, client: redis.Redis
) -> None:
    labelling = LabellingConfig(max_usd=1.0)
    teachers, paused = [], []

    def work(number: int) -> None:
        teacher = scripted(seconds=0.003, usd=0.001, most_usd=0.003)
        teachers.append(teacher)
        services = redis_services(client, "job", labelling, Pace(max_concurrency=64))
        try:
            label_examples(examples(250, f"w{number}"), teacher, labelling, services)
        except JobPaused:
            paused.append(number)
        close_loop()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    spent = sum(teacher.spent for teacher in teachers)
    assert paused
    assert 0.98 <= spent <= 1.0
    assert RedisPurse(client, "job").money().spent == pytest.approx(spent)
