"""The gate of somebody's CI: behind means shown to be behind, over seeds where there are seeds."""

from collections.abc import Sequence

import numpy as np
import pytest

from common.config.run import EvaluationConfig
from common.errors import InputError
from common.evaluation.compare import compare_systems
from common.evaluation.comparison import Comparison, Judged, ReportContext
from common.evaluation.evaluate import evaluate_system
from common.evaluation.gate import is_behind
from common.records import Example, Prediction, SystemCard
from common.task import TaskDefinition

SETTINGS = EvaluationConfig(bootstrap=400)
GOLD = [Example(id=str(i), text=f"t{i}", label=("dry", "wet")[i % 2]) for i in range(200)]


def compared(task: TaskDefinition, systems: Sequence[tuple[str, float, str | None]]) -> Comparison:
    """Systems (name, accuracy, recipe): the reference is the first."""
    judged = []
    for seed, (name, accuracy, group) in enumerate(systems):
        right = np.random.default_rng(seed).permutation(len(GOLD)) < accuracy * len(GOLD)
        said = [
            Prediction(
                example_id=e.id, label=e.label if ok else {"dry": "wet"}.get(str(e.label), "dry")
            )
            for e, ok in zip(GOLD, right, strict=True)
        ]
        card = SystemCard(name=name, role="student", title=name, group=group, seed=seed)
        judged.append(Judged(evaluate_system(card, GOLD, said, task, SETTINGS, "d", "f"), said))
    return compare_systems(judged, GOLD, task, SETTINGS, context=ReportContext())


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
