"""Figures from the literature, shown only beside the very texts they were measured on."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from common.config.base import Section, describe_faults
from common.errors import ConfigError
from common.evaluation.comparison import PublishedFigure
from common.task import CONFIGS


class Source(Section):
    """One figure as it stands in the YAML; see `PublishedFigure`."""

    system: str
    metrics: dict[str, float]
    source: str
    url: str = ""
    faults: list[str] = Field(default_factory=list)


class Protocol(Section):
    """
    The texts that figures belong to.

    `config` gives dotted keys of a run's resolved config with the values that make it this
    protocol; `n` is the number of texts judged.
    """

    title: str
    n: int
    config: dict[str, str | int | float]
    notes: list[str] = Field(default_factory=list)
    figures: list[Source]


class PublishedFile(Section):
    """configs/published.yaml."""

    protocols: dict[str, Protocol]


def load_published(path: Path | None = None) -> dict[str, Protocol]:
    """The protocols by name. Raises ConfigError with every fault of the file."""
    path = path or CONFIGS / "published.yaml"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        return PublishedFile.model_validate(tree).protocols
    except (OSError, yaml.YAMLError, ValidationError) as error:
        if isinstance(error, OSError):
            raise ConfigError(f"published figures {path} cannot be read: {error}.") from error
        raise ConfigError(describe_faults(f"published figures {path}", error)) from error


def figures_for(
    protocols: dict[str, Protocol], n: int, config: dict[str, Any], name: str | None = None
) -> tuple[list[PublishedFigure], list[str]]:
    """
    The figures and notes of the protocol that this run follows, empty where it follows none.

    Raises ConfigError for a `name` that is no protocol.
    """
    if name is not None and name not in protocols:
        raise ConfigError(f"protocol: there is no '{name}'; known: {', '.join(sorted(protocols))}.")
    for key, protocol in protocols.items():
        named = key == name if name else _follows(config, protocol.config)
        if named and protocol.n == n:
            figures = [PublishedFigure(**figure.model_dump()) for figure in protocol.figures]
            return figures, [protocol.title, *protocol.notes]
    return [], []


def _follows(config: dict[str, Any], wanted: dict[str, str | int | float]) -> bool:
    return bool(config) and all(_at(config, key) == value for key, value in wanted.items())


def _at(tree: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
