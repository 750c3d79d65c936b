"""Axes of the report's drawings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.evaluation.charts import Axis


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5, 2000, [1, 10, 100, 1000]),
        (3, 80, [5, 10, 20, 50]),
        (3, 8, [3, 4, 5, 6, 7, 8]),
        (0.02, 0.06, [0.02, 0.05]),
        (31, 38, [32, 34, 36, 38]),
    ],
)
def test_a_log_axis_has_round_ticks_even_within_a_decade(
    low: float, high: float, expected: list[float]
) -> None:
    assert Axis(low, high, 0, 100, log=True).ticks() == pytest.approx(expected)


@given(low=st.floats(1e-6, 1e6), factor=st.floats(1.01, 1e6), log=st.booleans())
def test_every_axis_has_ticks_and_all_lie_on_it(low: float, factor: float, log: bool) -> None:
    ticks = Axis(low, low * factor, 0, 100, log).ticks()

    assert 2 <= len(ticks) <= 12
    assert all(low * (1 - 1e-6) <= tick <= low * factor * (1 + 1e-6) for tick in ticks)
