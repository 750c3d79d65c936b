"""What is measured of speed, and what is said of it."""

import time
from collections.abc import Sequence

import pytest

from common.records import Scalar, SystemCard
from workers.stages.speed import SINGLE_TEXTS, latencies, named_hardware, priced, throughput

TEXTS = [f"text {i}" for i in range(300)]


def test_percentiles_are_those_of_single_texts() -> None:
    asked: list[int] = []

    def ask(texts: Sequence[str]) -> None:
        asked.append(len(texts))
        time.sleep(0.003 if len(asked) % 20 == 0 else 0.001)

    found = latencies(ask, TEXTS)

    assert set(asked) == {1}
    assert found["latency_texts"] == SINGLE_TEXTS == len(asked) - 3
    assert 1.0 <= found["latency_p50_ms"] < 3.0 <= found["latency_p99_ms"]


def test_a_percentile_needs_texts_beyond_it() -> None:
    found = latencies(lambda texts: time.sleep(0.002), TEXTS, seconds=0.03)

    assert 10 <= found["latency_texts"] < 40
    assert "latency_p50_ms" in found
    assert "latency_p95_ms" not in found


def test_throughput_counts_every_text_once_and_stops_in_time() -> None:
    given: list[str] = []

    def ask(texts: Sequence[str]) -> None:
        given.extend(texts)
        time.sleep(0.001)

    whole = throughput(ask, TEXTS, at_once=128)
    short = throughput(ask, TEXTS * 100, at_once=10, seconds=0.05)

    assert given[:300] == TEXTS
    assert whole["predict_texts"] == 300
    assert 10 <= short["predict_texts"] <= 500
    assert short["predict_seconds"] >= 0.05


def test_the_price_is_that_of_the_machines_time() -> None:
    card = SystemCard(name="s", role="student", title="S", predict_texts=500, predict_seconds=10.0)

    found = priced(card, usd_per_hour=3.6)

    # 0.02 s a text, 20 s a thousand, 3.6 / 3600 dollars a second
    assert found.usd_per_1000 == pytest.approx(0.02)
    assert priced(card, None).usd_per_1000 is None


def test_hardware_is_named_in_words() -> None:
    facts: dict[str, Scalar] = {
        "processor": "AMD EPYC",
        "cores": 2,
        "memory_gb": 23.5,
        "platform": "linux",
    }

    assert named_hardware(facts) == "AMD EPYC, 2 cores, 23.5 GB"
