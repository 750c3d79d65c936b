"""The first sentence of a report."""

from typing import Any

from common.evaluation.comparison import PairComparison
from common.evaluation.verdicts import headline


def pairs(*outcomes: str) -> list[PairComparison]:
    """The reference `r` against systems 0, 1, 2, …; a headline reads nothing else of a pair."""
    made: Any = PairComparison.model_construct
    return [made(first="r", second=str(i), outcome=told) for i, told in enumerate(outcomes)]


NAMES = {"r": "Ours", **{str(i): f"system {i}" for i in range(9)}}


def test_a_few_systems_are_named() -> None:
    told = headline("r", 0.8049, pairs("first_ahead", "not_shown", "first_ahead"), NAMES)

    assert told == (
        "Ours reaches 0.805 accuracy: ahead of system 0 and system 2; not told apart from system 1."
    )


def test_many_systems_are_counted() -> None:
    outcomes = ["first_ahead"] * 6 + ["second_ahead"] + ["not_shown"] * 2

    assert headline("r", 0.8, pairs(*outcomes), NAMES) == (
        "Ours reaches 0.800 accuracy: ahead of 6 others; behind one other; "
        "not told apart from 2 others."
    )
