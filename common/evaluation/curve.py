"""Data efficiency: how a recipe's accuracy grows with its training texts, over several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from common.config.run import EvaluationConfig
from common.errors import InputError
from common.evaluation.comparison import Curve, CurvePoint
from common.evaluation.counts import Codes, label_codes
from common.evaluation.evaluate import gold_codes, join_predictions
from common.evaluation.grouping import Seeds, compare_family
from common.evaluation.resampling import seeded
from common.evaluation.seeds import seed_group
from common.records import Example, Prediction
from common.task import TaskDefinition

Place = tuple[str, float]  # a recipe at a size
Stacks = dict[Place, Codes]  # answers of each seed: (seeds, texts)


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

    Recipes are compared with each other at every size. `baseline` (its name and predictions) is
    the line to reach; every point is compared with it. These are two families, in each of which
    p values are corrected. Raises InputError where nothing was run or a seed was run twice at one
    point.
    """
    codes = gold_codes(gold, task.label_names)
    places: dict[Place, list[CurveRun]] = {}
    for run in sorted(runs, key=lambda r: (r.recipe, r.fraction, r.seed)):
        places.setdefault((run.recipe, run.fraction), []).append(run)
    _check(places)
    stacks: Stacks = {key: _stack(found, gold, task) for key, found in places.items()}
    points = [
        _point(key, found, codes, stacks[key], task, settings) for key, found in places.items()
    ]
    between = compare_family(_recipes(runs, stacks), codes, len(task.labels), settings)
    curve = Curve(points=points, between_recipes=between)
    return curve if baseline is None else _with_line(curve, baseline, gold, stacks, task, settings)


def _with_line(
    curve: Curve,
    baseline: tuple[str, Sequence[Prediction]],
    gold: Sequence[Example],
    stacks: Stacks,
    task: TaskDefinition,
    settings: EvaluationConfig,
) -> Curve:
    name, predictions = baseline
    codes = gold_codes(gold, task.label_names)
    line = _codes(gold, predictions, name, task)[None]
    group = seed_group(
        name,
        [name],
        [None],
        codes,
        line,
        len(task.labels),
        resamples=settings.bootstrap,
        level=settings.confidence_level,
        rng=seeded(settings, name),
    )
    places = [(_named(place, stacks), (name, line)) for place in stacks]
    against = compare_family(places, codes, len(task.labels), settings)
    update = {"baseline": name, "baseline_metrics": group.metrics, "against_baseline": against}
    return curve.model_copy(update=update)


def _recipes(runs: Sequence[CurveRun], stacks: Stacks) -> list[tuple[Seeds, Seeds]]:
    """Every two recipes of the same size, the first one of the config first."""
    order = dict.fromkeys(run.recipe for run in runs)
    sizes = sorted({run.fraction for run in runs})
    return [
        (_named((one, size), stacks), _named((two, size), stacks))
        for size in sizes
        for one, two in combinations(order, 2)
        if (one, size) in stacks and (two, size) in stacks
    ]


def _named(place: Place, stacks: Stacks) -> Seeds:
    recipe, size = place
    return f"{recipe} at {size:.0%}", stacks[place]


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
