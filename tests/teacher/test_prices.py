"""Prices: every dollar is one a person can check against the table by hand."""

from pathlib import Path

import pytest

from common.errors import ConfigError, UsageError
from teacher.prices import PRICES, Tokens, load_prices, price_of

ENTRY = """\
- model: {name}
  source: a price list
  read_on: 2026-01-02
  input: 2
  output: 8
  cache_read: 0.2
  cache_write: 2.5
  cache_write_1h: 4
  batch_factor: 0.5
  long_prompt: {{above_tokens: 1000, factor: 3}}
"""


def table(folder: Path, text: str) -> Path:
    path = folder / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_input_and_output_are_charged_per_million_tokens(tmp_path: Path) -> None:
    price = price_of("m", table(tmp_path, ENTRY.format(name="m")))

    # 500 * 2 $ + 100 * 8 $ per million
    assert price.usd(Tokens(input=500, output=100)) == pytest.approx(0.0018)


def test_cached_tokens_have_prices_of_their_own(tmp_path: Path) -> None:
    price = price_of("m", table(tmp_path, ENTRY.format(name="m")))
    tokens = Tokens(input=100, output=10, cache_read=300, cache_write=200, cache_write_1h=50)

    usage = price.usage(tokens)

    # 100*2 + 10*8 + 300*0.2 + 200*2.5 + 50*4 = 200 + 80 + 60 + 500 + 200
    assert usage.usd == pytest.approx(1040e-6)
    assert usage.cache_write_tokens == 250


def test_batches_cost_their_share(tmp_path: Path) -> None:
    price = price_of("m", table(tmp_path, ENTRY.format(name="m")))

    assert price.usd(Tokens(input=500, output=100), batch=True) == pytest.approx(0.0009)


@pytest.mark.parametrize(("cached", "factor"), [(0, 1), (1, 3)])
def test_one_token_above_the_limit_makes_the_whole_request_dearer(
    tmp_path: Path, cached: int, factor: int
) -> None:
    price = price_of("m", table(tmp_path, ENTRY.format(name="m")))

    usd = price.usd(Tokens(input=1000, output=100, cache_read=cached))

    assert usd == pytest.approx(factor * (2000 + 800 + 0.2 * cached) * 1e-6)


def test_an_unknown_model_asks_for_a_price_instead_of_guessing() -> None:
    with pytest.raises(UsageError, match=r"no price for 'claude-haiku-55', did you mean") as caught:
        price_of("claude-haiku-55")

    assert "add an entry" in str(caught.value)


def test_the_table_shipped_prices_the_current_models() -> None:
    prices = load_prices()

    # 4,846 sentences of 300 tokens in and 120 out: the 0.44 $ (batch 0.22 $) of the price list
    haiku = prices["claude-haiku-5-5"]
    assert 4846 * haiku.usd(Tokens(input=300, output=120)) == pytest.approx(0.436, abs=0.001)
    assert 4846 * haiku.usd(Tokens(300, 120), batch=True) == pytest.approx(0.218, abs=0.001)
    assert prices["claude-haiku-4-5-20251001"] is prices["claude-haiku-4-5"]
    assert all(price.source and price.read_on.year >= 2026 for price in prices.values())


def test_a_fault_in_the_table_is_named(tmp_path: Path) -> None:
    wrong = ENTRY.format(name="m").replace("output: 8", "output: -8")

    with pytest.raises(ConfigError, match=r"0\.output: .*greater than or equal to 0"):
        load_prices(table(tmp_path, wrong))


def test_a_model_with_two_prices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gives m more than one price"):
        load_prices(table(tmp_path, ENTRY.format(name="m") * 2))


def test_a_missing_table_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml cannot be read"):
        load_prices(tmp_path / "nothing.yaml")


def test_the_table_lies_where_the_message_says() -> None:
    assert PRICES.parts[-2:] == ("configs", "prices.yaml")
