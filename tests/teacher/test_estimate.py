"""The estimate counts what would be asked and what that would cost."""

import datetime
from collections.abc import Callable
from typing import Any

import pytest

from common.config.teacher import LabellingConfig
from common.records import Example
from teacher.cache import MemoryCache
from teacher.estimate import USUAL_OUTPUT_TOKENS, estimate
from teacher.labelling import label_examples
from teacher.prices import Price
from teacher.services import local_services

PRICE = Price(
    model="m", source="s", read_on=datetime.date(2026, 11, 1), input=1.0, output=5.0,
    cache_read=0.1, cache_write=1.25, cache_write_1h=2.0, batch_factor=0.5,
)  # fmt: skip


def test_cached_rows_and_duplicates_cost_nothing(
    scripted: Any, examples: Callable[..., list[Example]]
) -> None:
    cache, teacher = MemoryCache(), scripted(samples=2)
    label_examples(examples(3), teacher, LabellingConfig(), local_services(cache=cache))
    rows = [*examples(10), *examples(4)]

    found = estimate(rows, teacher, cache, PRICE)

    assert (found.rows, found.questions) == (14, 28)
    assert (found.cached, found.duplicates, found.to_ask) == (6, 8, 14)
    assert found.input_tokens == 14 * 100
    assert (found.output_tokens, found.measured) == (14 * 20, True)
    assert found.usd_live == pytest.approx(14 * (100 * 1.0 + 20 * 5.0) / 1e6)
    assert found.usd_batch == pytest.approx(14 * (100 * 1.0 + 20 * 5.0) / 2e6)
    assert found.usd_at_most == pytest.approx(14 * 0.002)
    assert teacher.asked.total() == 6


def test_without_cached_answers_a_usual_length_is_expected(
    scripted: Any, examples: Callable[..., list[Example]]
) -> None:
    found = estimate(examples(5), scripted(), MemoryCache())

    assert (found.measured, found.output_tokens_each) == (False, USUAL_OUTPUT_TOKENS)
    assert (found.usd_live, found.usd_batch) == (None, None)


def test_nothing_to_ask_costs_nothing(scripted: Any) -> None:
    assert estimate([], scripted(), MemoryCache(), PRICE).usd_live == 0.0
