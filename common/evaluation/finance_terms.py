"""Financial terms and words of direction, read from configs/finance_terms.yaml."""

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import yaml
from pydantic import ValidationError

from common.config.base import Section, describe_faults
from common.errors import ConfigError
from common.task import CONFIGS


class Directions(Section):
    """Words that say that a figure went up or down."""

    up: list[str]
    down: list[str]


class FinanceTerms(Section):
    """The term list: each entry is the forms of one term."""

    statements: list[list[str]]
    news: list[list[str]]
    directions: Directions

    @cached_property
    def _forms(self) -> dict[str, str]:
        return {form: forms[0] for forms in [*self.statements, *self.news] for form in forms}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _any_word(self._forms)

    @cached_property
    def direction_of(self) -> dict[str, int]:
        """+1 or -1 by word."""
        ways = self.directions
        return {**dict.fromkeys(ways.up, 1), **dict.fromkeys(ways.down, -1)}

    def found(self, text: str) -> set[str]:
        """The terms (by their first form) that stand in `text`; the longest form wins."""
        return {self._forms[match] for match in self._pattern.findall(text.lower())}


def load_terms(path: Path | None = None) -> FinanceTerms:
    """Read the list. Raises ConfigError with every fault of the file."""
    path = path or CONFIGS / "finance_terms.yaml"
    try:
        return FinanceTerms.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"term list {path} cannot be read: {error}.") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(describe_faults(f"term list {path}", error)) from error


def _any_word(forms: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(forms, key=len, reverse=True)
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)")
