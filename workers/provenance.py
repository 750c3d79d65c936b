"""How a comparison was made: versions, hardware, seeds, histories, licences."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from common import __version__
from common.evaluation.comparison import ReportContext
from common.task import PROJECT_ROOT
from workers.run_directory import Run, read_json
from workers.services import usable_cores
from workers.systems import Options

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "scikit-learn", "scipy")


def context_of(runs: Sequence[Run], options: Options, notes: Sequence[str]) -> ReportContext:
    """How the runs came about, with the data that is judged instead of their own."""
    context = _made(runs)
    commands = [*context.commands, *([options.command] if options.command else [])]
    update: dict[str, object] = {"notes": [*notes, *context.notes], "commands": commands}
    if options.on:
        data = options.on.model_dump(mode="json")
        update |= {"config": {**context.config, "data": data}, "split": {}}
        update["licences"] = [*dict.fromkeys([*options.on.licences, *context.licences])]
    return context.model_copy(update=update)


def _made(runs: Sequence[Run]) -> ReportContext:
    directory, config = runs[0]
    split = read_json(directory.split_file) or {}
    summary = read_json(directory.labels_summary) or {}
    return ReportContext(
        run_id=" ".join(run.run_id for run, _ in runs),
        created=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        description=config.description,
        config=config.model_dump(mode="json"),
        versions=_versions(),
        seeds={run.run_id: c.seed for run, c in runs},
        fingerprints={run.run_id: run.marker_digest("prepare")[:16] for run, _ in runs},
        hardware=hardware(),
        commands=[*dict.fromkeys(f"finstill run {c.name}.yaml" for _, c in runs)],
        licences=[*config.data.licences, *_terms(summary)],
        histories=_histories(runs),
        teacher=summary,
        split={k: v for k, v in split.items() if isinstance(v, str | int | float | dict)},
    )


def _terms(summary: dict[str, Any]) -> list[str]:
    terms = summary.get("terms") or []
    return list(terms.values()) if isinstance(terms, dict) else [str(line) for line in terms]


def _histories(runs: Sequence[Run]) -> dict[str, list[dict[str, float | None]]]:
    found = {}
    for directory, config in runs:
        for name in config.trained_systems:
            summary = read_json(directory.training_summary(name)) or {}
            key = name if len(runs) == 1 else f"{directory.run_id}/{name}"
            found[key] = [_numbers(row) for row in summary.get("history", [])]
    return found


def _numbers(row: dict[str, Any]) -> dict[str, float | None]:
    return {k: float(v) for k, v in row.items() if isinstance(v, int | float)}


def _versions() -> dict[str, str]:
    found = {"finstill": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if commit := git_commit():
        found["commit"] = commit
    return found


def git_commit() -> str | None:
    """The checkout's commit, None outside a checkout or without git."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=PROJECT_ROOT, capture_output=True, text=True, check=True, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def hardware() -> dict[str, str | int | float | bool | None]:
    """What the numbers were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gb": round(memory / 2**30, 1),
        "platform": sys.platform,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
