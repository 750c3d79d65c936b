"""The judged systems of runs, under the names they have in a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.config import RunConfig
from common.config.data import DataConfig
from common.errors import InputError
from common.fingerprint import digest
from common.records import EvaluationReport
from workers.graph import system_names
from workers.run_directory import Run, read_json


@dataclass(frozen=True)
class System:
    """One judged system of a run; its report carries the name it has in the comparison."""

    run: Run
    name: str
    report: EvaluationReport

    def report_on(self, fingerprint: str) -> EvaluationReport:
        """
        Its report under the name that the texts it was judged on have in the comparison.

        Reports carry the print of their whole data set, which differs between runs that learnt
        from other parts of it and were judged on the same test part.
        """
        return self.report.model_copy(update={"data_fingerprint": fingerprint})


@dataclass(frozen=True)
class Outside:
    """A file of answers to the judged texts by `name`, which no run here has made."""

    name: str
    path: Path
    role: Literal["teacher", "baseline"]


@dataclass(frozen=True)
class Options:
    """
    How runs are compared.

    `only` keeps systems of these names. `common`: on the texts that all test parts share. `on`:
    on another labelled data set. `drop_leaked`: texts that a run has seen are left out for all.
    `command`: what somebody typed, for the page. `outside`: answers from elsewhere.
    """

    only: Sequence[str] = ()
    common: bool = False
    on: DataConfig | None = None
    drop_leaked: bool = False
    command: str = ""
    outside: Sequence[Outside] = ()


def systems_of(runs: Sequence[Run], only: Sequence[str]) -> list[System]:
    """Every judged system, by run. Raises InputError for one that is not judged yet."""
    found = []
    for run in runs:
        directory, config = run
        for name in system_names(config):
            if only and name not in only:
                continue
            raw = read_json(directory.evaluation(name))
            if raw is None:
                raise InputError(f"run {directory.run_id}: system '{name}' is not evaluated yet.")
            report = EvaluationReport.model_validate(raw)
            if len(runs) > 1:
                card = {"name": f"{directory.run_id}/{name}", "group": recipe(config, name, report)}
                named = report.system.model_copy(update=card)
                report = report.model_copy(update={"system": named})
            found.append(System(run, name, report))
    return found


def recipe(config: RunConfig, name: str, report: EvaluationReport) -> str | None:
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
