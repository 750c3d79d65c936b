"""The layout of runs/ID/; the only module that knows those paths."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from common import __version__
from common.config import ComparisonConfig, JobConfig, RunConfig, validate_config
from common.config.base import describe_faults
from common.data.atomic import atomic_file
from common.errors import InputError
from common.fingerprint import digest


class RunDirectory:
    """
    One run on disk.

    A stage is finished when its marker stands under stages/ with the expected fingerprint; the
    marker is written last, so a half-written stage is never taken for a finished one.
    """

    def __init__(self, root: Path):
        self.root = root

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.root.name

    def exists(self) -> bool:
        """Whether it is the folder of a run or of a comparison."""
        return self.config_file.exists() or self.comparison_file.exists()

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.json"

    @property
    def comparison_file(self) -> Path:
        """In its place, where the folder is that of a comparison of runs."""
        return self.root / "comparison.json"

    @property
    def data(self) -> Path:
        """train.parquet, validation.parquet, test.parquet, split.json."""
        return self.root / "data"

    def part(self, name: str) -> Path:
        """One part of the data."""
        return self.data / f"{name}.parquet"

    @property
    def split_file(self) -> Path:
        """What the split counted and found."""
        return self.data / "split.json"

    @property
    def corrections_file(self) -> Path:
        """Folded text -> label of the corrections this run goes by."""
        return self.root / "corrections.json"

    @property
    def corrections(self) -> dict[str, str]:
        """What people set right before this run was submitted; empty where nothing was."""
        return read_json(self.corrections_file) or {}

    @property
    def labels(self) -> Path:
        """chunks/, answers.parquet, probe.json, summary.json and the pairs."""
        return self.root / "labels"

    @property
    def answers(self) -> Path:
        """Every answer, each teacher, each sample."""
        return self.labels / "answers.parquet"

    @property
    def labels_summary(self) -> Path:
        """Counts, cost, agreement, dropped rows by reason."""
        return self.labels / "summary.json"

    def pairs(self, part: str, labels: str) -> Path:
        """Training pairs of a part, labelled by `teacher` or `gold`."""
        return self.labels / f"pairs_{labels}_{part}.parquet"

    def system(self, name: str) -> Path:
        """A system's model, checkpoints, predictions and report."""
        return self.root / "systems" / name

    def checkpoints(self, name: str) -> Path:
        """checkpoint-N/ of a training under way; they go when the model is finished."""
        return self.system(name) / "checkpoints"

    def predictions(self, name: str) -> Path:
        """What a system said of the test part."""
        return self.system(name) / "predictions.parquet"

    def evaluation(self, name: str) -> Path:
        """How a system did on the test part."""
        return self.system(name) / "evaluation.json"

    def elsewhere(self, name: str, texts: str) -> Path:
        """What a system said of other texts, known by their digest."""
        return self.system(name) / "elsewhere" / f"{texts}.parquet"

    def training_summary(self, name: str) -> Path:
        """Steps, seconds, history of a training."""
        return self.system(name) / "training.json"

    def live_curve(self, name: str) -> Path:
        """The steps of a training that is not finished: see workers/live_curve.py."""
        return self.system(name) / "live.jsonl"

    def report(self, suffix: str) -> Path:
        """report.html, report.md or report.json."""
        return self.root / f"report.{suffix}"

    def marker(self, stage: str) -> Path:
        """The proof that a stage is finished."""
        return self.root / "stages" / f"{stage.replace(':', '.')}.json"

    def markers(self, verb: str) -> list[Path]:
        """The markers of all finished stages of a kind, such as `evaluate`."""
        return list((self.root / "stages").glob(f"{verb}.*.json"))

    def is_done(self, stage: str, fingerprint: str) -> bool:
        """Whether the stage finished with exactly this input."""
        marker = read_json(self.marker(stage))
        return bool(marker) and marker.get("fingerprint") == fingerprint

    def mark_done(self, stage: str, fingerprint: str, seconds: float) -> None:
        """Write the marker; call when every output of the stage is on disk."""
        write_json(
            self.marker(stage),
            {
                "stage": stage,
                "fingerprint": fingerprint,
                "finished_at": time.time(),
                "seconds": seconds,
                "finstill": __version__,
            },
        )

    def marker_digest(self, stage: str) -> str:
        """A short name of what the stage was made from."""
        marker = read_json(self.marker(stage)) or {}
        return str(marker.get("fingerprint", ""))


Run = tuple[RunDirectory, RunConfig]


def create_run(runs: Path, config: JobConfig) -> RunDirectory:
    """Make the folder of a run or a comparison, or find it again: the same config is the same."""
    run = RunDirectory(runs / config.run_id)
    is_run = isinstance(config, RunConfig)
    file = run.config_file if is_run else run.comparison_file
    if not file.exists():
        write_json(file, config.model_dump(mode="json"))
    return run


def open_job(runs: Path, job_id: str) -> tuple[RunDirectory, JobConfig]:
    """A run or a comparison by its whole id. Raises InputError."""
    directory = RunDirectory(runs / job_id)
    tree = read_json(directory.comparison_file)
    if tree is None:
        return open_run(runs, job_id)
    try:
        return directory, ComparisonConfig.model_validate(tree)
    except ValidationError as error:
        file = str(directory.comparison_file)
        raise InputError(describe_faults(file, error, ComparisonConfig)) from error


def open_run(runs: Path, run_id: str) -> tuple[RunDirectory, RunConfig]:
    """A run by its id, by a unique beginning of it, or by its folder. Raises InputError."""
    run = RunDirectory(_find(runs, run_id))
    tree = read_json(run.config_file)
    if tree is None and run.config_file.is_file():
        raise InputError(
            f"{run.config_file} is half-written or damaged: it is no JSON; expected the config of "
            "a run: submit the run again, or remove the folder."
        )
    if tree is None:
        raise InputError(f"{run.root} is not a run: it has no config.json.")
    return run, validate_config(tree, str(run.config_file))


def list_runs(runs: Path) -> list[RunDirectory]:
    """Every run in a folder, newest first."""
    found = [p.parent for p in runs.glob("*/config.json")]
    return [RunDirectory(p) for p in sorted(found, key=lambda p: -p.stat().st_mtime)]


@dataclass(frozen=True)
class FinishedComparison:
    """A comparison that a job made."""

    id: str
    config: ComparisonConfig
    made_at: float


def list_comparisons(runs: Path, most: int) -> list[FinishedComparison]:
    """The newest finished comparisons in a folder; what is none is passed over."""
    reports = [RunDirectory(p.parent).report("html") for p in runs.glob("*/comparison.json")]
    times = {path.parent.name: path.stat().st_mtime for path in reports if path.exists()}
    found = []
    for name in sorted(times, key=lambda name: -times[name])[:most]:
        with suppress(InputError, OSError):
            _, config = open_job(runs, name)
            if isinstance(config, ComparisonConfig):
                found.append(FinishedComparison(name, config, times[name]))
    return found


def _find(runs: Path, run_id: str) -> Path:
    if not run_id.strip():
        raise InputError(
            f"run '{run_id}' is empty; expected a run's id or the beginning of one: see "
            f"`finstill jobs`, or {runs}."
        )
    if (Path(run_id) / "config.json").exists():
        return Path(run_id).resolve()
    known = [run.run_id for run in list_runs(runs)]
    matches = [name for name in known if name == run_id] or [
        name for name in known if name.startswith(run_id)
    ]
    if len(matches) == 1 and run_id:
        return runs / matches[0]
    listing = ", ".join(matches or known[:5]) or "none"
    wanted = "names several runs" if matches else "is not a run"
    raise InputError(f"'{run_id}' {wanted} in {runs}; there: {listing}.")


def read_json(path: Path) -> Any:
    """The parsed file, or None when it is missing or half-written."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, ValidationError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all: written aside, flushed to disk, renamed."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: written aside, flushed to disk, renamed. Raises DiskFull."""
    with atomic_file(path) as stream:
        stream.write(text.encode())


def stage_fingerprint(stage: str, config: Any, inputs: list[str]) -> str:
    """Name of a stage's output: the code's version, its configuration and its inputs."""
    return digest({"stage": stage, "finstill": __version__, "config": config, "inputs": inputs})
