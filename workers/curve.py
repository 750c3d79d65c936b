"""Accuracy against training size: the same recipes on nested parts of the data, over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.config import RunConfig
from common.config.run import TrainedBaseline
from common.data.store import count_records, read_records
from common.errors import ConfigError
from common.evaluation.comparison import Comparison, Curve
from common.evaluation.curve import CurveRun, curve_of
from common.records import EvaluationReport, Example, Prediction
from common.task import load_task
from workers.comparing import compare_runs
from workers.run_directory import RunDirectory, read_json
from workers.systems import Options


@dataclass(frozen=True)
class CurvePlace:
    """One run of a curve: which share of the training part, which seed, with what config."""

    fraction: float
    seed: int
    config: RunConfig


def curve_places(
    config: RunConfig, fractions: Sequence[float], seeds: int, line: str | None
) -> list[CurvePlace]:
    """
    The runs of a curve. Parts of one seed are nested: 6 % lies inside 12 %.

    The baseline `line` is trained once, on everything, with the config's own seed; what needs no
    training is left out below it. Raises ConfigError for shares outside (0, 1] and unknown lines.
    """
    bad = [share for share in fractions if not 0 < share <= 1]
    if bad or not fractions or seeds < 1:
        raise ConfigError(
            f"curve: shares lie in (0, 1] and seeds are at least 1; got {bad}, {seeds}."
        )
    if line is not None and line not in config.baselines:
        known = ", ".join(config.baselines) or "none"
        raise ConfigError(f"curve: --line {line} is no baseline of the config; there: {known}.")
    places = []
    for number in range(seeds):
        for share in sorted(fractions):
            seed = config.seed + number
            with_line = line is not None and number == 0 and share == 1
            places.append(CurvePlace(share, seed, _config_at(config, share, seed, line, with_line)))
    return places


def default_line(config: RunConfig) -> str | None:
    """The first LoRA baseline of a config."""
    for name, baseline in config.baselines.items():
        if isinstance(baseline, TrainedBaseline) and baseline.student.lora:
            return name
    return None


def draw_curve(
    places: Sequence[CurvePlace],
    runs: Sequence[RunDirectory],
    line: str | None,
    command: str = "",
) -> Comparison:
    """
    The comparison of the first run on all data, with the curve of all runs on its page.

    `command` is what somebody typed. Raises InputError when a run is not finished.
    """
    whole = max(range(len(places)), key=lambda i: (places[i].fraction, -i))
    comparison = compare_runs([(runs[whole], places[whole].config)], Options(command=command))
    return comparison.model_copy(update={"curve": _curve(places, runs, whole, line)})


def _curve(
    places: Sequence[CurvePlace], runs: Sequence[RunDirectory], whole: int, line: str | None
) -> Curve:
    config = places[whole].config
    found = [
        CurveRun(
            recipe=_title(run, name),
            training_examples=_pairs(run, place.config, name),
            fraction=place.fraction,
            seed=place.seed,
            predictions=list(read_records(run.predictions(name), Prediction)),
        )
        for place, run in zip(places, runs, strict=True)
        for name in place.config.trained_systems
        if name != line
    ]
    baseline = None
    if line is not None and line in config.baselines:
        said = list(read_records(runs[whole].predictions(line), Prediction))
        baseline = (_title(runs[whole], line), said)
    gold = list(read_records(runs[whole].part("test"), Example))
    return curve_of(found, gold, load_task(config.task), config.evaluation, baseline)


def _config_at(
    config: RunConfig, share: float, seed: int, line: str | None, with_line: bool
) -> RunConfig:
    baselines = {
        name: baseline
        for name, baseline in config.baselines.items()
        if (name == line and with_line)
        or (name != line and (isinstance(baseline, TrainedBaseline) or share == 1))
    }
    fraction = None if share == 1 else share
    data = config.data.model_copy(update={"train_fraction": fraction})
    return config.model_copy(update={"data": data, "seed": seed, "baselines": baselines})


def _title(run: RunDirectory, name: str) -> str:
    return EvaluationReport.model_validate(read_json(run.evaluation(name))).system.title


def _pairs(run: RunDirectory, config: RunConfig, name: str) -> int:
    _, training = config.trained_systems[name]
    return count_records(run.pairs("train", training.labels))
