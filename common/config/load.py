"""From a YAML file and key=value overrides to a RunConfig, with every fault at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from common.config.base import describe_faults, suggestion
from common.config.data import DataConfig
from common.config.run import RunConfig
from common.errors import ConfigError, InputError

_PATHS = (("data", "path"), ("data", "test_path"), ("teacher", "answers"))
_MODELS = {"model", "tokenizer"}


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """
    Read a run's YAML and apply `key=value` overrides (values are read as YAML).

    Relative paths in the file are relative to the file's folder, those in overrides to
    the current folder. A student's model is a path where there is such a folder, else a hub name.
    Raises InputError when the file cannot be read and ConfigError with all its faults.
    """
    tree = _anchored(read_tree(path), path.resolve().parent)
    for override in overrides:
        _apply(tree, override)
    return validate_config(tree, str(path))


def load_data(path: Path, overrides: Sequence[str] = ()) -> DataConfig:
    """
    Read a data section: a YAML of its own, or that of a run's YAML; overrides as `path=FILE`.

    Paths and errors as for `load_config`.
    """
    tree = read_tree(path)
    tree = {"data": tree["data"] if isinstance(tree.get("data"), dict) else tree}
    tree = _anchored(tree, path.resolve().parent)
    for override in overrides:
        _apply(tree, f"data.{override.removeprefix('data.')}")
    try:
        adapter: TypeAdapter[DataConfig] = TypeAdapter(DataConfig)
        return adapter.validate_python(tree["data"])
    except ValidationError as error:
        raise ConfigError(describe_faults(f"data config {path}", error)) from error


def read_tree(path: Path) -> dict[str, Any]:
    """The YAML mapping of a file, unvalidated."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = suggestion(path.name, (p.name for p in path.parent.glob("*.yaml")))
        raise InputError(f"config file {path} does not exist{near or '.'}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config file {path} cannot be read as UTF-8 text: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(describe_faults(f"config file {path}", error)) from error
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {path} is not a mapping of keys to values.")
    return tree


def validate_config(tree: Mapping[str, Any], what: str) -> RunConfig:
    """A RunConfig, or a ConfigError that lists every fault of the tree."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(describe_faults(f"config {what}", error, RunConfig)) from error


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"override '{override}' is not of the form key=value, e.g. training.epochs=1."
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(describe_faults(f"override '{override}'", error)) from error
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        node = (
            node.setdefault(part, {})
            if isinstance(node, dict)
            else node[_position(override, part, node)]
        )
        if not isinstance(node, dict | list):
            raise ConfigError(f"override '{override}': '{part}' is a single value, not a section.")
    if isinstance(node, list):
        node[_position(override, last, node)] = value
    else:
        node[last] = _anchored_value(key.split("."), value, Path.cwd())


def _position(override: str, part: str, items: list[Any]) -> int:
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    raise ConfigError(f"override '{override}': '{part}' is no position in a list of {len(items)}.")


def _anchored(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    for section, key in _PATHS:
        part = tree.get(section)
        if isinstance(part, dict) and key in part:
            part[key] = _absolute(part[key], folder)
    for teacher in tree.get("teachers") or []:
        if isinstance(teacher, dict) and "answers" in teacher:
            teacher["answers"] = _absolute(teacher["answers"], folder)
    baselines = tree.get("baselines")
    for part in (tree, *(baselines.values() if isinstance(baselines, dict) else ())):
        student = part.get("student") if isinstance(part, dict) else None
        if isinstance(student, dict):
            found = {key: student[key] for key in _MODELS & student.keys()}
            student |= {key: _model(value, folder, Path.cwd()) for key, value in found.items()}
    return tree


def _anchored_value(key: Sequence[str], value: Any, folder: Path) -> Any:
    if len(key) > 1 and key[-2] == "student" and key[-1] in _MODELS:
        return _model(value, folder)
    return _absolute(value, folder) if _is_path(key) else value


def _model(value: Any, *folders: Path) -> Any:
    """A hub name as it is; a folder absolute: whoever trains may stand elsewhere."""
    if not isinstance(value, str) or not value or Path(value).is_absolute():
        return value
    found = (folder / Path(value).expanduser() for folder in folders)
    return next((str(path.resolve()) for path in found if path.is_dir()), value)


def _is_path(key: Sequence[str]) -> bool:
    return tuple(key) in _PATHS or (key[0] == "teachers" and key[-1] == "answers")


def _absolute(value: Any, folder: Path) -> Any:
    return str((folder / Path(value).expanduser()).resolve()) if isinstance(value, str) else value
