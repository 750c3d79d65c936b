"""Data efficiency: how a recipe's accuracy grows with its training texts, over several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.config.run import EvaluationConfig
from common.errors import InputError
from common.evaluation.comparison import Curve, CurvePoint
from common.evaluation.counts import Codes, label_codes
from common.evaluation.evaluate import gold_codes, join_predictions
from common.evaluation.grouping import with_verdicts
from common.evaluation.resampling import seeded
from common.evaluation.seeds import compare_groups, seed_group
from common.records import Example, Prediction
from common.task import TaskDefinition


@dataclass(frozen=True)
class CurveRun:
    """One training: a recipe, how many texts it was trained on (of how many), its seed."""

    recipe: str
    training_examples: int
    fraction: float
    seed: int
    predictions: Sequence[Prediction]


def curve_of(
    runs: Sequence[CurveRun],
    gold: Sequence[Example],
    task: TaskDefinition,
    settings: EvaluationConfig,
    baseline: tuple[str, Sequence[Prediction]] | None = None,
) -> Curve:
    """
    Means over seeds with intervals over seeds and texts, one point a recipe and size.

    `baseline` (its name and predictions) is the line to reach; every point is compared with it,
    p values corrected over all points. Raises InputError where nothing was run or a seed was
    run twice at one point.
    """
    codes = gold_codes(gold, task.label_names)
    places: dict[tuple[str, float], list[CurveRun]] = {}
    for run in sorted(runs, key=lambda r: (r.recipe, r.fraction, r.seed)):
        places.setdefault((run.recipe, run.fraction), []).append(run)
    _check(places)
    stacks = {key: _stack(found, gold, task) for key, found in places.items()}
    points = [
        _point(key, found, codes, stacks[key], task, settings) for key, found in places.items()
    ]
    if baseline is None:
        return Curve(points=points)
    line = _codes(gold, baseline[1], baseline[0], task)[None]
    against = [
        compare_groups(
            (f"{recipe} at {fraction:.0%}", baseline[0]),
            codes,
            stacks[recipe, fraction],
            line,
            len(task.labels),
            resamples=settings.bootstrap,
            level=settings.confidence_level,
            rng=seeded(settings, recipe, str(fraction), baseline[0]),
        )
        for recipe, fraction in places
    ]
    metrics = seed_group(
        baseline[0],
        [baseline[0]],
        [None],
        codes,
        line,
        len(task.labels),
        resamples=settings.bootstrap,
        level=settings.confidence_level,
        rng=seeded(settings, baseline[0]),
    ).metrics
    return Curve(
        points=points,
        baseline=baseline[0],
        baseline_metrics=metrics,
        against_baseline=with_verdicts(against, settings.alpha),
    )


def _check(places: dict[tuple[str, float], list[CurveRun]]) -> None:
    for (recipe, fraction), found in places.items():
        if len({run.seed for run in found}) != len(found):
            seeds = [run.seed for run in found]
            raise InputError(
                f"curve: '{recipe}' at {fraction:.0%} has seeds {seeds}: expected each once."
            )
    if not places:
        raise InputError("curve: there is no run to draw; run `finstill curve` to its end first.")


def _stack(runs: Sequence[CurveRun], gold: Sequence[Example], task: TaskDefinition) -> Codes:
    return np.stack([_codes(gold, run.predictions, run.recipe, task) for run in runs])


def _codes(
    gold: Sequence[Example], predictions: Sequence[Prediction], name: str, task: TaskDefinition
) -> Codes:
    joined = join_predictions(gold, predictions, name)
    return label_codes([p.label for p in joined], task.label_names)


def _point(
    key: tuple[str, float],
    runs: Sequence[CurveRun],
    gold: Codes,
    answers: Codes,
    task: TaskDefinition,
    settings: EvaluationConfig,
) -> CurvePoint:
    recipe, fraction = key
    group = seed_group(
        recipe,
        [recipe] * len(runs),
        [run.seed for run in runs],
        gold,
        answers,
        len(task.labels),
        resamples=settings.bootstrap,
        level=settings.confidence_level,
        rng=seeded(settings, recipe, str(fraction)),
    )
    return CurvePoint(
        recipe=recipe,
        fraction=fraction,
        training_examples=round(float(np.mean([run.training_examples for run in runs]))),
        seeds=[run.seed for run in runs],
        metrics=group.metrics,
        spread=group.spread,
    )
