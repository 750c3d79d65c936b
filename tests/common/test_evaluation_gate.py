"""The gate of somebody's CI: behind means shown to be behind, over seeds where there are seeds."""

from collections.abc import Sequence

import numpy as np
import pytest

from common.config.run import EvaluationConfig
from common.errors import InputError
from common.evaluation.compare import compare_systems
from common.evaluation.comparison import Comparison, Judged, ReportContext
from common.evaluation.evaluate import evaluate_system
from common.evaluation.gate import is_behind, stand_ins
from common.evaluation.same_answers import each_once
from common.records import Example, Prediction, SystemCard
from common.task import TaskDefinition

SETTINGS = EvaluationConfig(bootstrap=400)
GOLD = [Example(id=str(i), text=f"t{i}", label=("dry", "wet")[i % 2]) for i in range(200)]


def judged(
    task: TaskDefinition, name: str, accuracy: float, group: str | None, seed: int
) -> Judged:
    right = np.random.default_rng(seed).permutation(len(GOLD)) < accuracy * len(GOLD)
    said = [
        Prediction(
            example_id=e.id, label=e.label if ok else {"dry": "wet"}.get(str(e.label), "dry")
        )
        for e, ok in zip(GOLD, right, strict=True)
    ]
    title = name.rpartition("/")[2]
    card = SystemCard(name=name, role="student", title=title, group=group, seed=seed)
    return Judged(evaluate_system(card, GOLD, said, task, SETTINGS, "d", "f"), said)


def compared(task: TaskDefinition, systems: Sequence[tuple[str, float, str | None]]) -> Comparison:
    """Systems (name, accuracy, recipe): the reference is the first."""
    found = [judged(task, *system, seed) for seed, system in enumerate(systems)]
    return compare_systems(found, GOLD, task, SETTINGS, context=ReportContext())


def merged(task: TaskDefinition, systems: Sequence[tuple[str, float, int]]) -> Comparison:
    """Systems (name, accuracy, seed of their answers), those with the same answers listed once."""
    found, _ = each_once([judged(task, name, share, None, seed) for name, share, seed in systems])
    return compare_systems(found, GOLD, task, SETTINGS, context=ReportContext())


def test_a_single_run_is_behind_only_where_that_is_shown(weather: TaskDefinition) -> None:
    systems = [
        ("student", 0.7, None),
        ("good", 0.95, None),
        ("alike", 0.72, None),
        ("bad", 0.5, None),
    ]
    found = compared(weather, systems)

    assert [is_behind(found, name) for name in ("good", "alike", "bad")] == [True, False, False]


def test_recipes_are_held_against_recipes_over_their_seeds(weather: TaskDefinition) -> None:
    mine = [(f"a{i}/student", 0.70 + i / 100, "mine") for i in range(3)]
    better = [(f"b{i}/student", 0.94 + i / 100, "better") for i in range(3)]
    found = compared(weather, [*mine, *better, ("c/tfidf", 0.71, None)])

    assert found.groups
    assert is_behind(found, "b1/student")
    assert not is_behind(found, "tfidf")
    with pytest.raises(InputError, match="seed of the reference's own recipe"):
        is_behind(found, "a1/student")


def test_a_name_that_several_runs_have_stands_for_each(weather: TaskDefinition) -> None:
    found = compared(weather, [("a/student", 0.7, None), ("a/x", 0.5, None), ("b/x", 0.95, None)])

    assert is_behind(found, "x")


@pytest.mark.parametrize("name", ["nobody", "student"])
def test_the_gate_needs_another_system(weather: TaskDefinition, name: str) -> None:
    with pytest.raises(InputError, match="no other system; there: student, other"):
        is_behind(compared(weather, [("student", 0.7, None), ("other", 0.8, None)]), name)


def test_a_system_listed_once_under_anothers_name_can_still_be_the_baseline(
    weather: TaskDefinition,
) -> None:
    good, bad = ("tfidf", 0.95, 7), ("majority", 0.5, 8)
    runs = [(f"{run}/{name}", *rest) for run in ("a", "b") for name, *rest in (good, bad)]
    found = merged(weather, [("a/student", 0.7, 1), *runs])  # type: ignore[list-item]

    assert [r.system.name for r in found.systems] == ["a/student", "a/tfidf", "a/majority"]
    assert is_behind(found, "b/tfidf")
    assert not is_behind(found, "b/majority")
    assert stand_ins(found, "b/tfidf") == [
        "b/tfidf: the same recipe and the same answers as a/tfidf, which is held against instead."
    ]
    assert stand_ins(found, "a/tfidf") == stand_ins(found, "tfidf") == []


@pytest.mark.parametrize("name", ["b/student", "student"])
def test_nobody_is_behind_a_system_with_its_own_answers(weather: TaskDefinition, name: str) -> None:
    found = merged(weather, [("a/student", 0.7, 1), ("b/student", 0.7, 1), ("a/x", 0.9, 2)])

    assert not is_behind(found, name)
    assert "is under test: not behind" in stand_ins(found, name)[0]
    with pytest.raises(InputError, match="no other system"):
        is_behind(found, "a/student")


def test_a_baseline_merged_into_a_seed_of_a_recipe_is_held_against_the_recipe(
    weather: TaskDefinition,
) -> None:
    mine = [judged(weather, f"a{i}/student", 0.70 + i / 100, "mine", i) for i in range(2)]
    theirs = [judged(weather, f"b{i}/student", 0.95, "better", 10 + i) for i in (0, 1, 1)]
    card = theirs[2].report.system.model_copy(update={"name": "c/student"})
    again = Judged(theirs[2].report.model_copy(update={"system": card}), theirs[2].predictions)
    systems, _ = each_once([*mine, *theirs[:2], again])
    found = compare_systems(systems, GOLD, weather, SETTINGS, context=ReportContext())

    assert [len(group.systems) for group in found.groups] == [2, 2]
    assert is_behind(found, "c/student")
