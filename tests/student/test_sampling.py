"""Batches are random, complete, of like length, and the same again for a seed and epoch."""

import statistics
from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from student.batches import first_fit, level_rows, row_cost
from student.sampling import PooledSampler

LENGTHS = [(37 * i) % 101 + 1 for i in range(500)]


def batched(order: Iterable[int], size: int) -> list[list[int]]:
    ids = list(order)
    return [ids[i : i + size] for i in range(0, len(ids), size)]


def sampler(pool: int, seed: int = 1) -> PooledSampler:
    return PooledSampler(LENGTHS, batch_size=16, pool=pool, seed=seed)


def test_every_epoch_gives_every_example_once() -> None:
    for epoch in range(3):
        chosen = sampler(8)
        chosen.set_epoch(epoch)

        assert sorted(chosen) == list(range(500))


def test_same_seed_and_epoch_give_the_same_order_and_others_do_not() -> None:
    first, again, later, other = sampler(8), sampler(8), sampler(8), sampler(8, seed=2)
    later.set_epoch(1)

    assert list(first) == list(again)
    assert list(first) != list(later)
    assert list(first) != list(other)


def test_pooled_batches_hold_examples_of_like_length() -> None:
    def spread(pool: int) -> float:
        batches = batched(sampler(pool), 16)
        return statistics.mean(statistics.pstdev(LENGTHS[i] for i in b) for b in batches)

    assert spread(8) < 0.25 * spread(1)


def test_batches_do_not_come_in_order_of_length() -> None:
    means = [statistics.mean(LENGTHS[i] for i in b) for b in batched(sampler(8), 16)]

    rising = sum(a < b for a, b in pairwise(means))
    assert 0.3 < rising / len(means) < 0.7


@given(st.lists(st.integers(1, 90), max_size=60), st.integers(30, 200))
def test_first_fit_keeps_all_and_never_exceeds_the_row(lengths: list[int], room: int) -> None:
    groups = first_fit(lengths, room)

    assert sorted(i for g in groups for i in g) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in g) <= room or len(g) == 1 for g in groups)


def test_first_fit_packs_what_fits_together() -> None:
    assert first_fit([70, 30, 60, 40], 100) == [[0, 1], [2, 3]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 60))
def test_levelled_rows_keep_all_fit_the_row_and_never_cost_more(
    lengths: list[int], room: int
) -> None:
    rows = level_rows(lengths, room)

    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= room or len(row) == 1 for row in rows)
    assert row_cost(lengths, rows) <= row_cost(lengths, first_fit(lengths, room))


def test_levelled_rows_are_short_where_that_needs_no_padding() -> None:
    # First-fit: 231, 231 and 154, padded to 3 x 231 = 693; eight rows of 77 are 616.
    assert row_cost([77] * 8, [[0, 1, 2], [3, 4, 5], [6, 7]]) == 693 * 1531

    assert [len(row) for row in level_rows([77] * 8, 256)] == [1] * 8


def test_levelled_rows_fill_up_where_lengths_differ() -> None:
    # A row each would be padded to 11 x 200 positions; two rows hold 200 tokens each.
    rows = level_rows([200, *[20] * 10], 256)

    assert sorted(len(row) for row in rows) == [1, 10]
