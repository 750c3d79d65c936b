"""What a request costs, from the dated table configs/prices.yaml; an unknown model has no price."""

import datetime
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from common.config.base import Section, describe_faults, suggestion
from common.errors import ConfigError, UsageError
from common.records import Usage
from common.task import CONFIGS

PRICES = CONFIGS / "prices.yaml"
_MILLION = 1_000_000


@dataclass(frozen=True)
class Tokens:
    """Tokens of one request: `input` are those neither read from nor written to a prompt cache."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0

    @property
    def prompt(self) -> int:
        """All tokens of the prompt, cached or not."""
        return self.input + self.cache_read + self.cache_write + self.cache_write_1h


class LongPrompt(Section):
    """A dearer tier: requests whose prompt exceeds `above_tokens` cost `factor` times as much."""

    above_tokens: int = Field(gt=0)
    factor: float = Field(gt=0)


class Price(Section):
    """
    One model's prices in US dollars per million tokens.

    `cache_write` is the five-minute prompt cache. `source` and `read_on` say where and when the
    numbers were read.
    """

    model: str
    aliases: list[str] = Field(default_factory=list)
    source: str
    read_on: datetime.date
    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cache_read: float = Field(ge=0)
    cache_write: float = Field(ge=0)
    cache_write_1h: float = Field(ge=0)
    batch_factor: float = Field(default=1.0, gt=0, le=1)
    long_prompt: LongPrompt | None = None

    def usd(self, tokens: Tokens, batch: bool = False) -> float:
        """Dollars of one request."""
        per_million = (
            tokens.input * self.input
            + tokens.output * self.output
            + tokens.cache_read * self.cache_read
            + tokens.cache_write * self.cache_write
            + tokens.cache_write_1h * self.cache_write_1h
        )
        return per_million * self._factor(tokens.prompt, batch) / _MILLION

    def usage(self, tokens: Tokens, batch: bool = False) -> Usage:
        """The record of one request's tokens with its dollars filled in."""
        return Usage(
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            cache_read_tokens=tokens.cache_read,
            cache_write_tokens=tokens.cache_write + tokens.cache_write_1h,
            usd=self.usd(tokens, batch),
        )

    def _factor(self, prompt_tokens: int, batch: bool) -> float:
        factor = self.batch_factor if batch else 1.0
        tier = self.long_prompt
        return factor * tier.factor if tier and prompt_tokens > tier.above_tokens else factor


def load_prices(path: Path = PRICES) -> dict[str, Price]:
    """
    Every price by model name and alias. Raises ConfigError for a table that is not valid.

    Read once a process and file: a price that changes under a running job would make its
    budget wrong in the middle.
    """
    return _read(path)


@lru_cache(maxsize=8)
def _read(path: Path) -> dict[str, Price]:
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
        prices = TypeAdapter(list[Price]).validate_python(rows)
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(describe_faults(f"price table {path}", error)) from error
    except OSError as error:
        raise ConfigError(f"price table {path} cannot be read: {error}.") from error
    named = [(name, price) for price in prices for name in (price.model, *price.aliases)]
    twice = sorted({name for name, _ in named if [n for n, _ in named].count(name) > 1})
    if twice:
        raise ConfigError(f"price table {path} gives {', '.join(twice)} more than one price.")
    return dict(named)


def price_of(model: str, path: Path = PRICES) -> Price:
    """The price of a model. Raises UsageError that asks for an entry instead of guessing one."""
    prices = load_prices(path)
    if model not in prices:
        raise UsageError(
            f"teacher.model: there is no price for '{model}'{suggestion(model, prices)} in {path}; "
            f"add an entry with its input and output price per million tokens, the source and the "
            f"date, so that budgets hold (known: {', '.join(sorted(prices))})."
        )
    return prices[model]
