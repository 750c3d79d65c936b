"""Accuracy against training size: means over seeds, the baseline as the line to reach."""

import numpy as np
import pytest

from common.config.run import EvaluationConfig
from common.errors import InputError
from common.evaluation.compare import compare_systems
from common.evaluation.comparison import Comparison, Judged, ReportContext
from common.evaluation.curve import CurveRun, curve_of
from common.evaluation.evaluate import evaluate_system
from common.evaluation.figures import curve_figures
from common.evaluation.render import render_html, render_markdown
from common.records import Example, Prediction, SystemCard
from common.task import load_task

TASK = load_task("sentiment")
NAMES = TASK.label_names
QUICK = EvaluationConfig(bootstrap=200)
GOLD = [Example(id=str(i), text="t", label=NAMES[i % 3]) for i in range(90)]


def said(accuracy: float, seed: int) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    right = rng.random(len(GOLD)) < accuracy
    return [
        Prediction(example_id=e.id, label=e.label if ok else NAMES[(i + 1) % 3])
        for i, (e, ok) in enumerate(zip(GOLD, right, strict=True))
    ]


def runs() -> list[CurveRun]:
    return [
        CurveRun("step by step", size, size / 800, seed, said(accuracy, seed + size))
        for size, accuracy in ((100, 0.25), (800, 0.95))
        for seed in (1, 2, 3)
    ]


def test_a_point_is_the_mean_over_its_seeds() -> None:
    curve = curve_of(runs(), GOLD, TASK, QUICK)

    first = curve.points[0]
    by_seed = [
        np.mean([p.label == e.label for p, e in zip(r.predictions, GOLD, strict=True)])
        for r in runs()[:3]
    ]
    assert first.training_examples == 100
    assert first.seeds == [1, 2, 3]
    assert first.metrics["accuracy"].value == pytest.approx(np.mean(by_seed))
    assert first.spread["accuracy"] == pytest.approx(np.std(by_seed, ddof=1))


def test_every_point_is_held_against_the_baseline() -> None:
    curve = curve_of(runs(), GOLD, TASK, QUICK, ("LoRA at 100%", said(0.7, 9)))

    outcomes = [pair.outcome for pair in curve.against_baseline]
    assert outcomes == ["second_ahead", "first_ahead"]
    assert curve.against_baseline[1].verdict.startswith("step by step at 100% is ahead of LoRA")
    assert curve.baseline_metrics["accuracy"].value == pytest.approx(
        np.mean([p.label == e.label for p, e in zip(said(0.7, 9), GOLD, strict=True)])
    )


def test_the_drawing_has_a_sign_a_point_and_the_sizes_as_ticks() -> None:
    curve = curve_of(runs(), GOLD, TASK, QUICK, ("LoRA", said(0.7, 9)))

    accuracy, macro_f1 = curve_figures(curve)

    assert accuracy.svg.count('class="dot') == 2
    assert accuracy.svg.count("dashed") == 1
    assert ">100<" in accuracy.svg
    assert ">800<" in accuracy.svg
    assert macro_f1.title == "Macro F1 by training size"


def test_the_same_seed_twice_at_one_point_is_refused() -> None:
    with pytest.raises(InputError, match="each once"):
        curve_of([*runs(), runs()[0]], GOLD, TASK, QUICK)


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(InputError, match="no run"):
        curve_of([], GOLD, TASK, QUICK)


def test_a_curve_stands_on_the_page_and_in_every_format() -> None:
    card = SystemCard(name="s", role="student", title="S")
    report = evaluate_system(card, GOLD, said(0.9, 1), TASK, QUICK, "toy", "d" * 64)
    bare = compare_systems(
        [Judged(report, said(0.9, 1))], GOLD, TASK, QUICK, context=ReportContext()
    )
    curve = curve_of(runs(), GOLD, TASK, QUICK, ("LoRA", said(0.7, 9)))

    whole = bare.model_copy(update={"curve": curve})

    assert "Data efficiency" in render_html(whole)
    assert curve.against_baseline[0].verdict in render_html(whole)
    assert "## Data efficiency" in render_markdown(whole)
    assert Comparison.model_validate_json(whole.model_dump_json()) == whole


def test_recipes_are_compared_at_every_size_the_first_of_the_config_first() -> None:
    others = [
        CurveRun("labels only", size, size / 800, seed, said(accuracy, seed + size + 50))
        for size, accuracy in ((100, 0.9), (800, 0.95))
        for seed in (1, 2, 3)
    ]
    curve = curve_of([*runs(), *others], GOLD, TASK, QUICK)

    small, large = curve.between_recipes
    assert (small.first, small.second) == ("step by step at 12%", "labels only at 12%")
    assert (small.outcome, large.outcome) == ("second_ahead", "not_shown")
    assert large.bootstrap.p_bonferroni == pytest.approx(min(1, 2 * large.bootstrap.p))
    blind = large.smallest_shown or 0
    assert f"under {100 * blind:.1f} points could not be seen" in large.verdict
    gap = large.differences["accuracy"].value
    assert abs(gap) <= blind


def test_a_size_that_one_recipe_alone_has_is_not_compared() -> None:
    other = CurveRun("labels only", 100, 100 / 800, 1, said(0.9, 3))
    curve = curve_of([*runs(), other], GOLD, TASK, QUICK)
    assert [pair.second for pair in curve.between_recipes] == ["labels only at 12%"]
    assert not curve.against_baseline
