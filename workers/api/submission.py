"""
From a request to a RunConfig, without opening anything the request names.

Data and recorded answers are uploads (`upload:ID`), configs and models are those the operator has
put under configs/, and sizes have ceilings.
"""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.config import RunConfig, load_config, read_tree, validate_config
from common.config.base import suggestion
from common.config.data import FileData
from common.config.student import TINY
from common.config.teacher import ClaudeTeacher, RecordedTeacher, VllmTeacher
from common.errors import ConfigError, FinstillError
from common.task import CONFIGS, load_task
from workers.api.datasets import DatasetStore

UPLOAD = "upload:"
MOST_STRING = 10_000

# What a request may override in a named config, and the largest value each may take anywhere.
OVERRIDES: dict[str, float] = {
    "seed": 2**31,
    "data.train_limit": 10_000_000,
    "data.train_fraction": 1,
    "data.test_limit": 10_000_000,
    "data.validation_share": 0.5,
    "labelling.max_usd": 100_000,
    "labelling.min_confidence": 1,
    "labelling.chunk_rows": 100_000,
    "training.epochs": 100,
    "training.copying.epochs": 100,
    "training.max_steps": 1_000_000,
    "training.rationale_weight": 100,
    "training.learning_rate": 1,
    "training.batch_size": 4096,
    "training.micro_batch_size": 1024,
    "training.patience": 1000,
    "evaluation.bootstrap": 100_000,
    "evaluation.rationale_rows": 10_000,
}
# Ceilings beyond those: what else an inline config could make too large.
CEILINGS: dict[str, float] = {
    **OVERRIDES,
    "samples": 32,
    "max_output_tokens": 8192,
    "hidden": 1024,
    "layers": 16,
    "heads": 32,
    "feed_forward": 4096,
    "vocabulary": 60_000,
    "rank": 512,
    "max_input_tokens": 8192,
    "max_rationale_tokens": 2048,
    "devices": 16,
    "calibration_bins": 1000,
    "browse_rows": 20_000,
    "evaluation.batch_size": 4096,
    "max_concurrency": 1024,
    "max_attempts": 20,
    "timeout_seconds": 600,
    "evaluations": 1000,
    "max_rationale_words": 5000,
}
Number = int | float | None


def catalogue() -> dict[str, Path]:
    """The configs a request may name: those of runs under configs/."""
    found = {}
    for path in sorted(CONFIGS.rglob("*.yaml")):
        if _is_run(path, path.stat().st_mtime_ns):
            found[path.relative_to(CONFIGS).with_suffix("").as_posix()] = path
    return found


def named(name: str, overrides: Mapping[str, Number]) -> RunConfig:
    """A config of the catalogue with some numbers changed. Raises ConfigError."""
    known = catalogue()
    if name not in known:
        near = suggestion(name[:100], known)
        raise ConfigError(
            f"there is no config '{name[:100]}'{near or '.'} Known: {', '.join(known)}."
        )
    words = [_override(key, value) for key, value in overrides.items()]
    config = load_config(known[name], words)
    _keep_budget(load_config(known[name]), config)
    _check_ceilings(config)
    return config


def inline(tree: Mapping[str, Any], datasets: DatasetStore) -> RunConfig:
    """A config given in full. Raises ConfigError for faults and for what reaches outside."""
    _check_strings(tree, "config")
    config = validate_config(_with_uploads(tree, datasets), "of the request")
    load_task(config.task)
    faults = [*_data_faults(config), *_teacher_faults(config), *_student_faults(config)]
    if faults:
        raise ConfigError("the config reaches outside what a request may: " + "; ".join(faults))
    _check_ceilings(config)
    return config


@lru_cache(maxsize=512)
def _is_run(path: Path, stamp: int) -> bool:
    try:
        tree = read_tree(path)
    except FinstillError:
        return False
    return "data" in tree and "name" in tree


def _override(key: str, value: Number) -> str:
    if key not in OVERRIDES:
        near = suggestion(key[:100], OVERRIDES)
        raise ConfigError(
            f"overrides: '{key[:100]}' cannot be set by a request{near or '.'} "
            f"Allowed: {', '.join(OVERRIDES)}."
        )
    if value is not None and not math.isfinite(value):
        raise ConfigError(f"overrides.{key}: the number is not finite.")
    return f"{key}={'null' if value is None else repr(value)}"


def _keep_budget(config: RunConfig, changed: RunConfig) -> None:
    """A request may spend less than the operator allowed, not more."""
    before, after = config.labelling.max_usd, changed.labelling.max_usd
    if before is not None and (after is None or after > before):
        raise ConfigError(f"overrides.labelling.max_usd: the config allows at most {before}.")


def _with_uploads(tree: Mapping[str, Any], datasets: DatasetStore) -> dict[str, Any]:
    """`upload:ID` where a file stands, as the file of that upload."""
    whole = dict(tree)
    for section, keys in (("data", ("path", "test_path")), ("teacher", ("answers",))):
        if isinstance(whole.get(section), Mapping):
            whole[section] = _located(whole[section], keys, datasets)
    if isinstance(whole.get("teachers"), list):
        whole["teachers"] = [
            _located(t, ("answers",), datasets) if isinstance(t, Mapping) else t
            for t in whole["teachers"]
        ]
    return whole


def _located(
    part: Mapping[str, Any], keys: tuple[str, ...], datasets: DatasetStore
) -> dict[str, Any]:
    found = dict(part)
    for key in keys:
        value = found.get(key)
        if isinstance(value, str) and value.startswith(UPLOAD):
            found[key] = str(datasets.path(value.removeprefix(UPLOAD)))
        elif value is not None:
            raise ConfigError(
                f"{key}: a request names files by upload, e.g. '{UPLOAD}ID', not by path."
            )
    return found


def _data_faults(config: RunConfig) -> Iterator[str]:
    if not isinstance(config.data, FileData):
        yield f"data.kind '{config.data.kind}': upload the rows and use jsonl, csv or parquet"


def _teacher_faults(config: RunConfig) -> Iterator[str]:
    for teacher in config.all_teachers:
        match teacher:
            case RecordedTeacher():
                continue
            case VllmTeacher() if teacher.engine == "offline":
                yield "teacher.engine 'offline' would load a model: use the server"
            case ClaudeTeacher() if config.labelling.max_usd is None:
                yield "labelling.max_usd: a paid teacher needs a budget"


def _student_faults(config: RunConfig) -> Iterator[str]:
    models = _known_models()
    for name, (student, training) in config.trained_systems.items():
        for key in ("model", "tokenizer"):
            value = getattr(student, key)
            if value not in (None, TINY) and value not in models:
                yield (
                    f"{name}.{key} '{value[:80]}' stands in no config of this installation"
                    f"{suggestion(value, models) or ''}"
                )
        if student.revision and (student.model, student.revision) not in models.items():
            yield f"{name}.revision is not the one of this installation's configs"
        if training.report_to:
            yield f"{name}.report_to would send data elsewhere"


def _known_models() -> dict[str, str | None]:
    """Models and tokenizers that the operator's own configs name, with their revisions."""
    found: dict[str, str | None] = {}
    for path in catalogue().values():
        try:
            tree = read_tree(path)
        except FinstillError:  # somebody is writing it: no reason to refuse what does not name it
            continue
        baselines = [b for b in (tree.get("baselines") or {}).values() if isinstance(b, dict)]
        for part in (tree.get("student"), *(b.get("student") for b in baselines)):
            if isinstance(part, dict):
                found[str(part.get("model"))] = part.get("revision")
                found[str(part.get("tokenizer"))] = None
    return found


def _check_strings(value: Any, where: str) -> None:
    if isinstance(value, str):
        if len(value) > MOST_STRING:
            raise ConfigError(f"{where}: a string of {len(value)} signs is too long.")
        if any(ord(sign) < 32 and sign not in "\n\t" for sign in value):
            raise ConfigError(f"{where}: control characters are not taken.")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_strings(str(key), where)
            _check_strings(item, f"{where}.{str(key)[:60]}")
    elif isinstance(value, list):
        for item in value:
            _check_strings(item, where)


def _check_ceilings(config: RunConfig) -> None:
    if len(config.baselines) > 16 or len(config.teachers) > 8:
        raise ConfigError("a request may have 16 baselines and 8 teachers.")
    for path, value in _numbers(config.model_dump(mode="json"), ""):
        most = next((m for key, m in CEILINGS.items() if f".{path}".endswith(f".{key}")), None)
        if most is not None and abs(value) > most:
            raise ConfigError(f"{path}: a request may set at most {most:g} (got {value:g}).")


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        if isinstance(value, int) and abs(value) > 2**63:
            raise ConfigError(f"{path}: the number is too large.")
        if not math.isfinite(value):
            raise ConfigError(f"{path}: the number is not finite.")
        yield path, float(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _numbers(item, f"{path}.{index}")
