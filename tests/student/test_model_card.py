"""The model card tells what was used, how good it is and under which terms, and nothing private."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.records import ClassScores, EvaluationReport, Interval, SystemCard, TextScore
from common.task import TaskDefinition
from student.calibration import Calibration
from student.checkpoint import Manifest
from student.licences import base_licence
from student.model_card import ModelCardFacts, model_name, render_model_card
from student.progress import TrainingSummary
from student.runtime import ExportRecord

EXPORT = ExportRecord(
    format="onnx",
    numbers="int8",
    finstill="0",
    check={"texts": 90.0, "labels": 0.0, "probability": 0.0012, "log_probability": 0.003},
)
MERGED = EXPORT.model_copy(update={"format": "merged", "numbers": "float32"})


def report(task: TaskDefinition) -> EvaluationReport:
    scores = ClassScores(precision=0.5, recall=0.25, f1=0.333, support=40)
    return EvaluationReport(
        system=SystemCard(name="student", role="student", title="T5"),
        dataset="river bank",
        data_fingerprint="f",
        labels=task.label_names,
        n=1234,
        metrics={"accuracy": Interval(value=0.8123, low=0.7911, high=0.8344)},
        per_class=dict.fromkeys(task.label_names, scores),
        confusion=[],
        unparseable=0,
    )


@pytest.fixture
def make_manifest(
    task: TaskDefinition, tiny: Callable[..., StudentConfig]
) -> Callable[..., Manifest]:
    def make(student: StudentConfig | None = None, **training: Any) -> Manifest:
        return Manifest(
            student=student or tiny("seq2seq", "t5"),
            training=TrainingConfig.model_validate({"seed": 13, **training}),
            task=task,
            base="base",
            tokens={},
            data_fingerprint="d",
            identity="i",
            versions={"torch": "2.13"},
            git_commit="abc",
        )

    return make


def facts(**more: Any) -> ModelCardFacts:
    return ModelCardFacts.model_validate(
        {"run_id": "river-1a2b", "system": "student", "data": "river bank", **more}
    )


def test_card_holds_results_with_intervals_teachers_and_limits(
    make_manifest: Callable[..., Manifest], task: TaskDefinition
) -> None:
    known = facts(
        training_examples=3634,
        teachers=["claude: terms of the service"],
        licences=["CC0"],
        report=report(task),
        calibration=Calibration(temperature=1.5, n=90),
    )

    card = render_model_card(known, make_manifest(), MERGED)

    assert "| accuracy | 0.812 [0.791, 0.834] |" in card
    assert "1,234 test texts of river bank" in card
    assert "- Teacher claude: terms of the service" in card
    assert "3,634 texts of river bank" in card
    assert "temperature 1.500, fitted on 90 validation texts" in card
    assert "- Data: CC0" in card
    assert "fluent is not faithful" in card
    assert "0.0012" in card
    for name in task.label_names:
        assert f"| {name} | 0.500 | 0.250 | 0.333 | 40 |" in card


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({"seen": 0}, "1,234 test texts of river bank, which no part of training has seen."),
        (
            {"seen": 0, "near": 9, "near_cosine": 0.8},
            "has seen; 9 have a near duplicate on the training side (cosine 0.8 or more).",
        ),
        ({"seen": 6}, "river bank, of which 6 stand in its training or validation part too."),
        (
            {"seen": 6, "near": 9, "near_cosine": 0.8},
            "6 stand in its training or validation part too; 9 have a near duplicate on the "
            "training side (cosine 0.8 or more, those included).",
        ),
        ({}, "1,234 test texts of river bank.\n"),
    ],
)
def test_card_says_how_many_test_texts_training_has_seen(
    make_manifest: Callable[..., Manifest],
    task: TaskDefinition,
    known: dict[str, Any],
    told: str,
) -> None:
    card = render_model_card(facts(report=report(task), **known), make_manifest(), EXPORT)

    assert told in card
    assert ("which no part of training has seen" in card) == (known.get("seen") == 0)


@pytest.mark.parametrize(
    ("best", "early", "told"),
    [
        (None, False, ", 200 steps, 1,600 examples seen, seed 13"),
        (200, False, ", 200 steps, 1,600 examples seen, seed 13"),
        (120, True, ", 200 steps (stopped early), 1,600 examples seen, weights of step 120, the "),
        (120, False, ", 200 steps, 1,600 examples seen, weights of step 120, the best on the vali"),
    ],
)
def test_card_names_the_step_whose_weights_these_are(
    make_manifest: Callable[..., Manifest], best: int | None, early: bool, told: str
) -> None:
    summary = TrainingSummary(
        steps=200, seconds=1, examples_seen=1600, tokens_seen=1, parameters=1, micro_batch_size=8,
        trainable_parameters=1, peak_memory_bytes=1, best_step=best, stopped_early=early,
    )  # fmt: skip
    manifest = make_manifest().model_copy(update={"summary": summary})

    assert told in render_model_card(facts(), manifest, EXPORT)


def test_a_card_does_not_speak_of_rationales_that_its_form_does_not_write(
    make_manifest: Callable[..., Manifest],
) -> None:
    onnx = render_model_card(facts(), make_manifest(), EXPORT)
    silent = render_model_card(facts(), make_manifest(rationale_weight=0), EXPORT)

    assert "fluent is not faithful" not in onnx
    assert "argue for another" not in onnx
    assert "Writes no rationales: onnx holds what scores labels; its student does." in onnx
    assert "Writes no rationales" not in silent


def test_a_card_without_results_is_not_called_judged(
    make_manifest: Callable[..., Manifest], task: TaskDefinition
) -> None:
    assert "Judged on" not in render_model_card(facts(), make_manifest(), EXPORT)
    assert "Trained on river bank only" in render_model_card(facts(), make_manifest(), EXPORT)
    judged = render_model_card(facts(report=report(task)), make_manifest(), EXPORT)
    assert "Judged on river bank only" in judged


def test_tiny_students_are_called_tiny(
    make_manifest: Callable[..., Manifest],
) -> None:
    real = StudentConfig(architecture="causal", model="openai-community/gpt2")

    assert "**Tiny.**" in render_model_card(facts(), make_manifest(), EXPORT)
    assert "Tiny" not in render_model_card(facts(), make_manifest(real), EXPORT)


def test_front_matter_is_what_hubs_read(make_manifest: Callable[..., Manifest]) -> None:
    real = StudentConfig(architecture="seq2seq", model="google/flan-t5-small")

    card = render_model_card(facts(), make_manifest(real, labels="gold"), EXPORT)

    matter = yaml.safe_load(card.split("---")[1])
    assert matter["license_name"] == "apache-2.0-and-data-licence"
    assert matter["base_model"] == "google/flan-t5-small"
    assert "finance" in matter["tags"]


@pytest.mark.parametrize(
    ("model", "labels", "licences", "name"),
    [
        ("google/flan-t5-small", "gold", ["CC"], "apache-2.0-and-data-licence"),
        ("google/flan-t5-small", "gold", [], "apache-2.0-and-data-licence"),
        ("google/flan-t5-small", "teacher", [], "apache-2.0-and-data-licence-and-teacher-terms"),
        (
            "meta-llama/Llama-3.1-8B",
            "teacher",
            ["CC"],
            "llama3.1-and-data-licence-and-teacher-terms",
        ),
        ("someone/unheard-of", "teacher", ["CC"], "data-licence-and-teacher-terms"),
    ],
)
def test_hubs_show_no_free_licence_where_data_or_teachers_bind(
    make_manifest: Callable[..., Manifest],
    model: str,
    labels: str,
    licences: list[str],
    name: str,
) -> None:
    real = StudentConfig(architecture="seq2seq", model=model)

    card = render_model_card(facts(licences=licences), make_manifest(real, labels=labels), EXPORT)

    matter = yaml.safe_load(card.split("---")[1])
    assert (matter["license"], matter["license_name"]) == ("other", name)
    licence = card.split("## Licence")[1]
    assert "All of these hold at once" in licence
    assert ("no licence of river bank is known here: look it up" in licence) == (not licences)


def test_card_says_that_a_rationale_may_argue_for_another_label(
    make_manifest: Callable[..., Manifest], task: TaskDefinition
) -> None:
    agreement = TextScore(n=37, mean=Interval(value=0.9189, low=0.827, high=1.0))
    judged = report(task).model_copy(update={"rationales": {"label_agreement": agreement}})

    measured = render_model_card(facts(report=judged), make_manifest(), MERGED)
    unmeasured = render_model_card(facts(), make_manifest(), MERGED)
    silent = render_model_card(facts(report=judged), make_manifest(rationale_weight=0), MERGED)

    assert "not from the label beside it, and may argue for another; of 37 that name" in measured
    assert "0.919 [0.827, 1.000] name that one (label agreement)." in measured
    assert "and may argue for another." in unmeasured
    assert "argue for another" not in silent


@pytest.mark.parametrize(
    ("model", "licence"),
    [
        ("google/flan-t5-base", "apache-2.0"),
        ("google-t5/t5-small", "apache-2.0"),
        ("google-bert/bert-base-uncased", "apache-2.0"),
        ("meta-llama/Llama-3.1-8B", "llama3.1"),
        ("meta-llama/Meta-Llama-3-8B", "llama3"),
        ("openai-community/gpt2", "mit"),
        ("openai-community/gpt2-medium", "mit"),
        ("distilbert/distilgpt2", "apache-2.0"),
        ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
        ("sentence-transformers/all-MiniLM-L12-v2", "apache-2.0"),
        ("microsoft/MiniLM-L12-H384-uncased", "mit"),
        ("nreimers/MiniLM-L6-H384-uncased", "mit"),
        ("meta-llama/Llama-4-Scout-17B-16E", "other"),
        ("ProsusAI/finbert", "other"),
        ("someone/unheard-of", "other"),
        ("someone/gpt2-finance", "other"),
        ("someone/flan-t5-base-news", "other"),
        ("all-MiniLM-L6-v2", "other"),
    ],
)
def test_licence_of_the_base_is_that_of_its_whole_name_or_said_to_be_unknown(
    model: str, licence: str, make_manifest: Callable[..., Manifest]
) -> None:
    student = StudentConfig(architecture="seq2seq", model=model)

    card = render_model_card(facts(), make_manifest(student, labels="gold"), EXPORT)

    assert base_licence(model) == licence
    assert (f"{model}: look it up before you distribute this" in card) == (licence == "other")


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: mit\n---\n# A base\n", "mit"),
        ("---\nlicense: other\nlicense_name: ours\n---\n", "other"),
        ("---\nlicense: [mit, gpl]\n---\n", "other"),
        ("---\nlicense: 'mit\n---\n", "other"),
        ("# A base under the MIT licence\n", "other"),
        (None, "other"),
    ],
)
def test_licence_of_a_local_base_is_what_its_own_readme_says_not_what_its_folder_is_called(
    make_manifest: Callable[..., Manifest], tmp_path: Path, readme: str | None, licence: str
) -> None:
    folder = tmp_path / "flan-t5-small"
    folder.mkdir()
    (folder / "config.json").write_text('{"_name_or_path": "google/flan-t5-small"}')
    if readme is not None:
        (folder / "README.md").write_text(readme)
    student = StudentConfig(architecture="seq2seq", model=str(folder))

    card = render_model_card(facts(), make_manifest(student, labels="gold"), EXPORT)

    assert base_licence(str(folder)) == licence
    assert ("flan-t5-small: mit, as its README says." in card) == (licence == "mit")


def test_a_name_begins_with_llama_where_a_licence_wants_it(
    make_manifest: Callable[..., Manifest],
) -> None:
    bound = facts(must_begin_with="Llama")
    already = facts(run_id="llama-8b-1a2b", must_begin_with="Llama")

    card = render_model_card(bound, make_manifest(), EXPORT)

    assert model_name(bound) == "Llama-river-1a2b-student"
    assert model_name(already) == "llama-8b-1a2b-student"
    assert model_name(facts()) == "river-1a2b-student"
    assert "# Llama-river" in card
    assert "Built with Llama." in card


def test_no_path_of_this_machine_is_published(
    make_manifest: Callable[..., Manifest], tmp_path: Path
) -> None:
    local = StudentConfig(architecture="seq2seq", model=str(tmp_path))

    card = render_model_card(facts(), make_manifest(local), EXPORT)

    assert str(tmp_path.parent) not in card
    assert tmp_path.name in card


def test_gold_labels_and_missing_results_are_said(
    make_manifest: Callable[..., Manifest],
) -> None:
    known = facts(teachers=["claude: terms"])

    card = render_model_card(known, make_manifest(labels="gold", rationale_weight=0), EXPORT)

    assert "Teacher claude" not in card
    assert "Not evaluated." in card
    assert "labels only" in card


def test_only_what_learnt_reasons_is_called_step_by_step(
    make_manifest: Callable[..., Manifest], tiny: Callable[..., StudentConfig]
) -> None:
    def method(student: StudentConfig | None = None, **training: Any) -> str:
        card = render_model_card(facts(), make_manifest(student, **training), EXPORT)
        return next(line for line in card.splitlines() if line.startswith("- Method: "))

    assert "step by step" in method()
    assert "labels only" in method(rationale_weight=0)
    assert "labels only" in method(labels="gold")
    assert "labels only" in method(tiny("classifier", "bert"))
