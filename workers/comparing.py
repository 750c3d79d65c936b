"""Several systems of one or several runs, judged on the same texts, side by side."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from common import __version__
from common.config import RunConfig
from common.data.store import read_records
from common.errors import InputError
from common.evaluation.compare import compare_systems
from common.evaluation.comparison import Comparison, Judged, ReportContext
from common.evaluation.render import render_html, render_markdown
from common.fingerprint import digest, digest_lines
from common.records import EvaluationReport, Example, Prediction
from common.task import PROJECT_ROOT, load_task
from workers.graph import system_names
from workers.run_directory import RunDirectory, read_json, write_text
from workers.services import usable_cores

Run = tuple[RunDirectory, RunConfig]
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "scikit-learn", "scipy")


def compare_runs(runs: Sequence[Run], only: Sequence[str] = ()) -> Comparison:
    """
    Compare the judged systems of `runs`; `only` keeps those of these names.

    Raises InputError when the runs were not judged on the same texts or nothing was judged.
    """
    directory, config = runs[0]
    gold = list(read_records(directory.part("test"), Example))
    _refuse_other_texts(runs)
    judged = [system for run in runs for system in _judged(run, prefix=len(runs) > 1)]
    if only:
        judged = [s for s in judged if s.report.system.name.rpartition("/")[2] in only]
    if not judged:
        raise InputError(f"run {directory.run_id} has no evaluated system to compare.")
    return compare_systems(
        judged, gold, load_task(config.task), config.evaluation, context=_context(runs)
    )


def write_comparison(directory: RunDirectory, comparison: Comparison) -> None:
    """report.json, report.md and, last, report.html."""
    write_text(directory.report("json"), comparison.model_dump_json(indent=1) + "\n")
    write_text(directory.report("md"), render_markdown(comparison))
    write_text(directory.report("html"), render_html(comparison))


def _refuse_other_texts(runs: Sequence[Run]) -> None:
    prints = {run.run_id: _texts_digest(run) for run, _ in runs}
    if len(set(prints.values())) > 1:
        listing = ", ".join(f"{name} ({value[:8]})" for name, value in prints.items())
        raise InputError(
            f"the runs were judged on different texts: {listing}; compare runs whose configs have "
            "the same data section."
        )


def _texts_digest(run: RunDirectory) -> str:
    if read_json(run.split_file) is None:
        raise InputError(f"run {run.run_id} is not finished: it has no data; run it first.")
    test = read_records(run.part("test"), Example)
    return digest_lines(f"{e.id}\0{e.label}\0{e.text}" for e in test)


def _judged(run: Run, prefix: bool) -> list[Judged]:
    directory, config = run
    found = []
    for name in system_names(config):
        raw = read_json(directory.evaluation(name))
        if raw is None:
            raise InputError(f"run {directory.run_id}: system '{name}' is not evaluated yet.")
        report = EvaluationReport.model_validate(raw)
        if prefix:
            card = {"name": f"{directory.run_id}/{name}", "group": _recipe(config, name, report)}
            report = report.model_copy(update={"system": report.system.model_copy(update=card)})
        found.append(Judged(report, list(read_records(directory.predictions(name), Prediction))))
    return found


def _recipe(config: RunConfig, name: str, report: EvaluationReport) -> str | None:
    """
    What runs that differ by their seed alone have in common; None where no seed plays a part.

    The digits tell recipes apart that look alike in a table: another learning rate, other teachers.
    """
    if name not in config.trained_systems:
        return None
    student, training = config.trained_systems[name]
    made = config.model_dump(mode="json", include={"data", "teacher", "teachers", "aggregation"})
    parts = [student, training.model_copy(update={"seed": None})]
    key = digest([made, *(part.model_dump(mode="json") for part in parts)])
    return f"{report.system.title} ({key[:4]})"


def _context(runs: Sequence[Run]) -> ReportContext:
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
        commands=[f"finstill run {config.name}.yaml"],
        licences=[*([config.data.licence] if config.data.licence else []), *_terms(summary)],
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
