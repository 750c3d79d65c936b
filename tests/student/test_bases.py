"""What a student takes from its base, and what it must not: content, settings, fresh heads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.records import TrainingPair
from common.task import TaskDefinition
from student.checkpoint import identity, read_manifest
from student.encoding import Encoder
from student.export.export import export_student
from student.generation import Explainer
from student.models.load import LoadedStudent
from student.models.reload import reload_student
from student.models.tiny import prepare_tiny, tiny_texts
from student.predict import Predictor
from student.progress import TrainingSummary

Pairs = Callable[[int], list[TrainingPair]]
Tiny = Callable[..., StudentConfig]
Train = Callable[..., TrainingSummary]
Untrained = Callable[..., tuple[LoadedStudent, Encoder]]
CPU = torch.device("cpu")


def base(folder: Path, config: StudentConfig, task: TaskDefinition, seed: int = 3) -> Path:
    assert config.tiny
    texts = tiny_texts([], task, "default")
    return prepare_tiny(folder, config.tiny, texts, seed)


@pytest.mark.parametrize("changed", ["model", "tokenizer"])
def test_another_base_in_the_same_place_makes_another_student(
    changed: str, task: TaskDefinition, tiny: Tiny, tmp_path: Path
) -> None:
    folders = {
        name: base(tmp_path / name, tiny("causal", "gpt2"), task) for name in ("model", "tokenizer")
    }
    student = StudentConfig.model_validate(
        {"architecture": "causal", **{name: str(folder) for name, folder in folders.items()}}
    )

    def now() -> str:
        return identity(student, TrainingConfig(), task, "data")

    before = now()
    assert now() == before
    (folders[changed] / "tokenizer.json").write_text("another", "utf-8")
    assert now() != before


def test_a_tiny_base_is_made_anew_when_what_it_is_made_of_changes(
    task: TaskDefinition, tiny: Tiny, tmp_path: Path
) -> None:
    small = tiny("causal", "gpt2")
    assert small.tiny
    shape = small.tiny.model_copy(update={"hidden": 64})
    large = small.model_copy(update={"tiny": shape})

    def hidden(config: StudentConfig, seed: int = 3) -> tuple[int, bytes]:
        folder = base(tmp_path / "base", config, task, seed)
        weights = (folder / "model.safetensors").read_bytes()
        return AutoConfig.from_pretrained(folder).n_embd, weights

    first = hidden(small)
    assert hidden(small) == first
    assert hidden(small, seed=4)[1] != first[1]
    assert hidden(large)[0] == 64
    assert hidden(small) == first


@pytest.mark.parametrize(("architecture", "family"), [("seq2seq", "t5"), ("causal", "gpt2")])
def test_rationales_are_greedy_whatever_the_base_prefers(
    architecture: str, family: str, task: TaskDefinition, tiny: Tiny, untrained: Untrained
) -> None:
    config = tiny(architecture, family)
    loaded, _ = untrained(config, task, [])
    loaded.module.eval()
    opening = ([5, 6, 7], [8])
    plain = Explainer(loaded, CPU, 20).explain([opening], 1)

    settings = loaded.core.generation_config
    settings.no_repeat_ngram_size, settings.forced_bos_token_id = 1, 30
    settings.min_new_tokens, settings.repetition_penalty = 20, 5.0
    loaded.core.generation_config = settings

    assert Explainer(loaded, CPU, 20).explain([opening], 1) == plain


def test_a_student_that_was_shown_no_rationale_says_so_and_writes_none(
    make_pairs: Pairs, train: Train, tmp_path: Path
) -> None:
    bare = [pair.model_copy(update={"rationale": None}) for pair in make_pairs(21)]

    summary = train(bare, "a", epochs=1, copying={"epochs": 1})
    taught = train(name="b", epochs=1)

    assert (summary.rationales, taught.rationales) == (0, 13)
    assert summary.notes[0] == "no training text comes with a rationale: it learns labels only"
    assert taught.notes == []
    assert Predictor.load(tmp_path / "a" / "model").rationales(["Sales rose."]) == [None]
    assert not read_manifest(tmp_path / "a" / "model").explains
    assert read_manifest(tmp_path / "b" / "model").explains


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_classifier_of_adapters_predicts_on_a_base_without_a_padding_token(
    family: str,
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    train: Train,
    tmp_path: Path,
) -> None:
    folder = base(tmp_path / "base", tiny("causal", family), task)
    shape = AutoConfig.from_pretrained(folder)
    shape.pad_token_id = None
    shape.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    student = StudentConfig.model_validate(
        {"architecture": "classifier", "model": str(folder), "lora": {"rank": 4}}
    )
    train(student=student, name="run", epochs=1)
    texts = [pair.text for pair in make_pairs(21)]

    trained = Predictor.load(tmp_path / "run" / "model").scores(texts, 8)
    export_student(tmp_path / "run" / "model", "merged", tmp_path / "merged", texts[16:])
    merged = Predictor.load(tmp_path / "merged").scores(texts, 8)

    assert torch.allclose(trained, merged, atol=1e-4)


def test_a_classifiers_fresh_parts_stay_out_of_four_bits(
    task: TaskDefinition, tiny: Tiny, train: Train, tmp_path: Path
) -> None:
    folder = base(tmp_path / "base", tiny("classifier", "bert"), task)
    headless: Any = AutoModel
    headless.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(tmp_path / "encoder")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "encoder")
    student = StudentConfig.model_validate(
        {
            "architecture": "classifier", "model": str(tmp_path / "encoder"),
            "lora": {"rank": 4}, "quantization": "nf4",
        }
    )  # fmt: skip

    train(student=student, name="run", epochs=1)

    manifest = read_manifest(tmp_path / "run" / "model")
    core = reload_student(tmp_path / "run" / "model", manifest, CPU).core
    kinds = {name: type(part).__name__ for name, part in core.named_modules()}
    assert any(kind == "Linear4bit" for kind in kinds.values())
    fresh = {k: v for k, v in kinds.items() if "classifier" in k or "pooler" in k}
    assert {name.partition(".")[0] for name in fresh} == {"classifier", "bert"}  # head, pooler
    assert "Linear4bit" not in fresh.values()
