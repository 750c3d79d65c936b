"""What all configuration sections share: closed, frozen, and faults told all at once."""

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails


class Section(BaseModel):
    """
    Base of every part of a configuration: unknown keys are faults, as are infinite numbers; values
    never change.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


# As far as numpy takes them; torch and Python would take more.
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def suggestion(word: str, known: Iterable[str]) -> str:
    """ ", did you mean 'x'?" where a known word is near, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean '{near[0]}'?" if near else ""


def describe_faults(
    what: str, error: ValidationError | yaml.YAMLError, model: type[BaseModel] | None = None
) -> str:
    """All faults of one file in a list a person can work through."""
    if isinstance(error, yaml.YAMLError):
        return f"{what} is not valid YAML: {' '.join(str(error).split())}"
    lines = [f"{what} is not valid:"]
    lines += sorted({f"  {_describe(fault, model)}" for fault in error.errors()})
    return "\n".join(lines)


def _describe(fault: ErrorDetails, model: type[BaseModel] | None) -> str:
    where = ".".join(str(part) for part in fault["loc"]) or "the whole"
    if fault["type"] == "extra_forbidden":
        key = str(fault["loc"][-1])
        known = _fields_at(model, fault["loc"][:-1]) if model else ()
        hint = suggestion(key, known) or (f"; known: {', '.join(sorted(known))}" if known else "")
        return f"{where}: unknown key{hint}"
    got = "" if fault["type"] == "missing" else f" (got {_short(fault['input'])})"
    return f"{where}: {fault['msg'].removeprefix('Value error, ')}{got}"


def _short(value: Any, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> set[str]:
    """Field names of every section class that `path` can lead to."""
    here: set[type[BaseModel]] = {model}
    for part in path:
        inner: set[type[BaseModel]] = set()
        for section in here:
            field = section.model_fields.get(str(part))
            inner |= _sections(field.annotation) if field else _tagged(section, str(part))
        here = inner or here
    return {name for section in here for name in section.model_fields}


def _tagged(section: type[BaseModel], tag: str) -> set[type[BaseModel]]:
    kind = section.model_fields.get("kind")
    return {section} if kind is None or tag in get_args(kind.annotation) else set()


def _sections(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {found for inner in get_args(annotation) for found in _sections(inner)}
