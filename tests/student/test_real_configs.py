"""The configs of real students: complete in their headers, and run tiny by the same code."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training_needs import needs
from common.config import RunConfig, load_config
from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.records import TrainingPair
from common.task import CONFIGS, TaskDefinition
from student.predict import Predictor
from student.train import train_student
from workers.cli import main
from workers.commands.export import card_facts
from workers.run_directory import RunDirectory

NAMES = (
    "flan-t5-small",
    "flan-t5-base",
    "flan-t5-large",
    "gpt2",
    "llama-3.1-8b-4bit",
    "lora-fingpt",
    "encoders",
)
SHIPPED = sorted(path.stem for path in (CONFIGS / "fpb").glob("*.yaml"))
FAMILIES = {
    "flan-t5": "t5",
    "gpt2": "gpt2",
    "Llama": "llama",
    "stories": "llama",
    "MiniLM": "bert",
    "finbert": "bert",
}


REASON = "The sentence tells how the business of the company goes."


def config_of(name: str) -> RunConfig:
    return load_config(CONFIGS / "fpb" / f"{name}.yaml")


def header_of(name: str) -> str:
    return (CONFIGS / "fpb" / f"{name}.yaml").read_text(encoding="utf-8").split("\nname:")[0]


def tiny_shape(student: StudentConfig) -> dict[str, Any]:
    if student.tiny:  # a config may train a random student beside a real one
        family: str = student.tiny.family
    else:
        family = next(family for part, family in FAMILIES.items() if part in student.model)
    return {"family": family, "hidden": 32, "feed_forward": 48, "vocabulary": 500}


def judged(pair: TrainingPair, place: int, task: TaskDefinition) -> TrainingPair:
    """With what teachers add to a label: a stated confidence or, every other one, probabilities."""
    rest = 0.1 / (len(task.label_names) - 1)
    chances = {name: 0.9 if name == pair.label else rest for name in task.label_names}
    more = {"probabilities": chances} if place % 2 else {"confidence": 0.9}
    return pair.model_copy(update=more)


@pytest.mark.parametrize("name", NAMES)
def test_header_names_memory_and_time_as_the_estimate_has_them(name: str) -> None:
    header = " ".join(line.lstrip("# ") for line in header_of(name).splitlines())
    gigabytes = [int(n) for n in re.findall(r"(\d+) GB", header)]
    minutes = int(re.search(r"(\d+) minutes? of training", header)[1])  # type: ignore[index]

    found = [needs(*system) for system in config_of(name).trained_systems.values()]

    assert max(gigabytes) == math.ceil(max(n.total for n in found) / 1e9)
    assert minutes == math.ceil(sum(n.seconds for n in found) / 60)
    assert "Estimated, not measured" in header
    assert "Hyper-parameters: " in header or "As published: " in header


def test_llama_weights_in_four_bits_are_what_the_paper_says_plus_embedding_and_head() -> None:
    config = config_of("llama-3.1-8b-4bit")

    found = needs(*config.trained_systems["student"])

    tables = 2 * 128256 * 4096
    assert found.parameters == 8_030_261_248  # as the published checkpoint
    assert found.parameters * 4.127 / 8 == pytest.approx(4.1e9, rel=0.02)
    assert found.weights == pytest.approx((found.parameters - tables) * 4.127 / 8 + 2 * tables)


def test_lora_baselines_are_four_pairs_and_see_the_tokens_the_student_sees() -> None:
    student = config_of("llama-3.1-8b-4bit").trained_systems
    systems = config_of("lora-fingpt").trained_systems

    trainings = [training for _, training in [*student.values(), *systems.values()]]
    assert {training.max_tokens for training in trainings} == {580_000}
    assert all(training.patience > training.evaluations for training in trainings), (
        "stopped early, one would see fewer tokens than the others"
    )
    published = {n: s for n, s in systems.items() if n.startswith("published")}
    repaired = {n: s for n, s in systems.items() if n.startswith("repaired")}
    assert len(published) == len(repaired) == 4
    for model, training in published.values():
        assert model.lora
        assert (model.lora.rank, model.lora.alpha, model.lora.dropout) == (8, 32, 0.1)
        assert model.lora.targets == ["q_proj", "k_proj", "v_proj"]
        assert (training.learning_rate, training.prompt_loss) == (1e-4, "as_published")
    for model, training in repaired.values():
        assert model.lora
        assert model.lora.targets == "all-linear"
        assert (training.warmup_share, training.prompt_loss) == (0.03, "masked")
    for kind in (published, repaired):
        cells = {(t.labels, m.quantization) for m, t in kind.values()}
        assert cells == {(a, b) for a in ("gold", "teacher") for b in (None, "nf4")}
        assert all(m.prompt == "fingpt" and t.rationale_weight == 0 for m, t in kind.values())


@pytest.mark.parametrize(("name", "wanted"), [("llama-3.1-8b-4bit", "Llama"), ("gpt2", None)])
def test_what_is_trained_on_llama_carries_its_name(
    name: str, wanted: str | None, tmp_path: Path
) -> None:
    config = config_of(name)

    for system in config.trained_systems:
        facts = card_facts(RunDirectory(tmp_path / "run"), config, system, tmp_path)
        assert facts.must_begin_with == wanted


@pytest.mark.parametrize("name", ["flan-t5-small", "flan-t5-base", "flan-t5-large", "gpt2"])
def test_label_only_twin_differs_in_the_rationale_alone(name: str) -> None:
    systems = config_of(name).trained_systems

    (student, training), (twin, silent) = systems["student"], systems["label-only"]

    assert student == twin
    assert training.model_copy(update={"rationale_weight": 0}) == silent


@pytest.mark.parametrize("name", SHIPPED)
def test_every_system_of_a_shipped_config_trains_and_answers_at_tiny_size(
    name: str,
    task: TaskDefinition,
    make_pairs: Callable[[int], list[TrainingPair]],
    tmp_path: Path,
) -> None:
    pairs = [judged(pair, place, task) for place, pair in enumerate(make_pairs(13))]
    for system, (student, training) in config_of(name).trained_systems.items():
        tiny = {"model": "tiny-random", "tiny": tiny_shape(student)}
        small = {"max_steps": 1, "evaluations": 0, "batch_size": 8, "report_to": ["none"]}
        summary = train_student(
            student=StudentConfig.model_validate({**student.model_dump(), **tiny}),
            training=TrainingConfig.model_validate({**training.model_dump(), **small}),
            task=task,
            train=pairs[:-3],
            validation=pairs[-3:],
            folder=tmp_path / system,
            threads=1,
        )
        (answer,) = Predictor.load(tmp_path / system / "model").predict([pairs[0].text])
        assert summary.steps == 1, system
        assert answer.label in task.label_names, system


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_finstill_run_takes_a_real_config_from_data_to_report_at_tiny_size(
    name: str,
    make_pairs: Callable[[int], list[TrainingPair]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FINSTILL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FINSTILL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("FINSTILL_THREADS", "1")
    pairs = make_pairs(60)
    sentences, answers = tmp_path / "fpb.jsonl", tmp_path / "answers.jsonl"
    rows = [
        {"id": f"fpb-{i:05d}", "sentence": p.text, "label": p.label, "agreement": 100}
        for i, p in enumerate(pairs)
    ]
    sentences.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = [
        {"fpb_id": row["id"], "label": p.label, "rationale": REASON, "confidence": 0.9}
        for row, p in zip(rows, pairs, strict=True)
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in said))
    overrides = [f"data.path={sentences}", f"teacher.answers={answers}", "evaluation.bootstrap=200"]
    for system, (student, _) in config_of(name).trained_systems.items():
        at = "" if system == "student" else f"baselines.{system}."
        overrides += [
            f"{at}student.model=tiny-random",
            f"{at}student.tiny={json.dumps(tiny_shape(student))}",
            f"{at}training.max_steps=1",
        ]

    with pytest.raises(SystemExit) as ended:
        main(["run", str(CONFIGS / "fpb" / f"{name}.yaml"), *overrides, "--local"])

    assert ended.value.code in (0, None)
    (report,) = (tmp_path / "runs").glob("*/report.md")
    for system in config_of(name).trained_systems:
        assert (report.parent / "systems" / system / "model" / "manifest.json").is_file()
