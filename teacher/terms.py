"""Whose answers one may train on, from the dated table configs/terms.yaml."""

import datetime
from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from common.config.base import Section, describe_faults, suggestion
from common.errors import ConfigError, UsageError
from common.task import CONFIGS

TERMS = CONFIGS / "terms.yaml"


class Terms(Section):
    """
    What one service's terms, or one licence, say on training with outputs.

    `match`: parts of a teacher's name or model id, in lower case. `name_begins_with`: what the
    name of a distributed model must begin with. `lifecycle` by model id.
    """

    name: str
    match: list[str] = Field(min_length=1)
    service: str
    training: Literal["allowed", "conditions", "comparison_only"]
    says: str
    name_begins_with: str | None = None
    source: str
    read_on: datetime.date
    lifecycle: dict[str, str] = Field(default_factory=dict)

    def covers(self, names: Iterable[str]) -> bool:
        """Whether one of a teacher's names falls under these terms."""
        return any(part in name.lower() for name in names for part in self.match)


@lru_cache(maxsize=8)
def load_terms(path: Path = TERMS) -> tuple[Terms, ...]:
    """Every entry in order. Raises ConfigError for a table that is not valid."""
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
        return tuple(TypeAdapter(list[Terms]).validate_python(rows))
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(describe_faults(f"table of terms {path}", error)) from error
    except OSError as error:
        raise ConfigError(f"table of terms {path} cannot be read: {error}.") from error


def terms_of(names: Collection[str], path: Path = TERMS) -> Terms | None:
    """The first entry that covers one of a teacher's names; None where the table has none."""
    return next((terms for terms in load_terms(path) if terms.covers(names)), None)


def check_terms(names: Collection[str], accepted: Collection[str], path: Path = TERMS) -> None:
    """
    Raises UsageError where a teacher's answers are for comparison only and nobody accepted that.

    `names`: the teacher's name, its configured model, the models that answered. Raises ConfigError
    for an accepted name that the table does not know.
    """
    _check_known(accepted, path)
    terms = terms_of(names, path)
    if terms and terms.training == "comparison_only" and terms.name not in accepted:
        raise UsageError(
            f"teacher '{next(iter(names))}': {terms.service}: {terms.says} (read "
            f"{terms.read_on}) Leave the teacher out, or, if you may train on its answers, say so "
            f"with labelling.accept_terms=[{terms.name}]."
        )


def _check_known(accepted: Collection[str], path: Path) -> None:
    known = [terms.name for terms in load_terms(path)]
    for name in accepted:
        if name not in known:
            raise ConfigError(
                f"labelling.accept_terms: there are no terms '{name}'"
                f"{suggestion(name, known)}; {path} lists {', '.join(known)}."
            )
