"""A pace that cannot be read or kept stops a job with its reason; it never lets it hang."""

import asyncio

import pytest

from common.config.teacher import Pace
from teacher.base import Question
from teacher.gate import Gate
from teacher.pace_state import Grant, Member, PaceState, Report


class BrokenStore:
    """A store whose state nobody can make sense of."""

    blocks = False

    def exchange(self, report: Report) -> Grant:
        if report.leaving:
            return Grant(0)
        raise TypeError("unreadable")


def test_who_waits_at_a_gate_whose_store_is_broken_is_told() -> None:
    async def ask() -> None:
        async with Gate(BrokenStore(), "a") as gate:
            async with asyncio.timeout(5):
                await gate.enter(Question("a", "text", 0, {}, {}))

    with pytest.raises(TypeError, match="unreadable"):
        asyncio.run(ask())


def test_the_pace_of_another_version_is_read_as_far_as_it_is_known() -> None:
    state = PaceState.start(Pace())
    state.limit, state.members = 17.0, {"a": Member(3, 2, 1, 9.0)}
    kept = state.dump()
    kept["of_tomorrow"] = True
    del kept["refusals"], kept["cut_at"]

    read = PaceState.load(kept)

    assert read == state
