"""A finished student computes in the precision of its training, in the memory that one had."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from common.config import RunConfig
from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.records import Example, TrainingPair
from common.task import TaskDefinition
from student.checkpoint import read_manifest
from student.export.export import export_student
from student.models.load import Plan, load_student
from student.models.scores import name_in_base
from student.predict import Predictor
from student.runtime import Precision, TorchRuntime, open_runtime
from student.train import train_student
from workers.api.students import Shelf
from workers.cli import main
from workers.run_directory import create_run
from workers.services import settings_from_environment
from workers.stages.context import StageContext
from workers.stages.students import predict_examples

Pairs = Callable[[int], list[TrainingPair]]
Tiny = Callable[..., StudentConfig]
NF4 = {"quantization": "nf4"}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("causal", "llama", {}),
    "llama-nf4": ("causal", "llama", NF4),
    "t5": ("seq2seq", "t5", {}),
    "classifier": ("classifier", "bert", {}),
    "t5-classifier": ("classifier", "t5", {}),
    "llama-classifier": ("classifier", "llama", {}),
}
LANGUAGE_MODELS = ("llama", "llama-nf4", "t5")
ADAPTERS = (*LANGUAGE_MODELS, "classifier")


@pytest.fixture(scope="module")
def pairs(make_pairs: Pairs) -> list[TrainingPair]:
    return make_pairs(50)


@pytest.fixture(scope="module")
def student(
    tmp_path_factory: pytest.TempPathFactory,
    task: TaskDefinition,
    tiny: Tiny,
    pairs: list[TrainingPair],
) -> Callable[[str], Path]:
    """The model folder of a student trained under bf16, each trained once; "whole": no adapter."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            architecture, family, more = KINDS["t5" if kind == "whole" else kind]
            lora = None if kind == "whole" else {"rank": 4}
            training = TrainingConfig(
                epochs=3, batch_size=8, learning_rate=1e-2, seed=5, evaluations=2,
                precision="bf16",
            )  # fmt: skip
            folder = tmp_path_factory.mktemp("student")
            train_student(
                student=tiny(architecture, family, max_rationale_tokens=8, lora=lora, **more),
                training=training, task=task, train=pairs[:38], validation=pairs[38:],
                folder=folder, threads=1,
            )  # fmt: skip
            made[kind] = folder / "model"
        return made[kind]

    return get


def module_of(folder: Path, precision: Precision) -> torch.nn.Module:
    runtime = open_runtime(folder, read_manifest(folder), precision, 1)
    assert isinstance(runtime, TorchRuntime)
    return runtime.loaded.module


@pytest.mark.parametrize("kind", KINDS)  # a classifier's head and pooler begin random
def test_best_accuracy_and_loss_in_the_history_are_those_of_the_finished_adapter(
    student: Callable[[str], Path], pairs: list[TrainingPair], task: TaskDefinition, kind: str
) -> None:
    folder = student(kind)
    predictor = Predictor.load(folder, precision="as-trained")

    scores = predictor.scores([pair.text for pair in pairs[38:]])

    gold = torch.tensor([task.label_set.index(pair.label) for pair in pairs[38:]])
    summary = read_manifest(folder).summary
    assert summary
    assert summary.best_validation == {
        "accuracy": float((scores.argmax(-1) == gold).float().mean()),
        "label_loss": pytest.approx(float(-scores.gather(1, gold[:, None]).mean()), abs=1e-6),
    }


@pytest.mark.parametrize("kind", ["classifier", "t5-classifier", "llama-classifier"])
def test_a_head_trained_whole_beside_adapters_is_held_and_kept_in_float32(
    student: Callable[[str], Path], task: TaskDefinition, kind: str
) -> None:
    folder = student(kind)
    plan = Plan(compute=torch.bfloat16)
    trained = load_student(read_manifest(folder).student, task, str(folder / "base"), plan).module
    learns = {p.dtype for p in trained.parameters() if p.requires_grad}
    assert learns == {torch.float32}

    saved = load_file(folder / "adapter_model.safetensors")
    heads = {n: t for n, t in saved.items() if "lora_" not in n}
    assert heads
    assert any(not torch.equal(t, t.bfloat16().float()) for t in heads.values())
    precisions: tuple[Precision, ...] = ("float32", "as-trained", "bf16")
    for precision in precisions:
        module = module_of(folder, precision)
        held = {name_in_base(n): p for n, p in module.named_parameters()}
        for name, wanted in heads.items():
            found = held[f"model.{name_in_base(name)}"]
            kept = wanted.bfloat16() if precision == "bf16" else wanted
            assert found.dtype == kept.dtype
            assert torch.equal(found, kept)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_as_trained_takes_the_bytes_of_its_training(
    student: Callable[[str], Path], task: TaskDefinition, kind: str
) -> None:
    folder = student(kind)
    plan = Plan(compute=torch.bfloat16)
    base = str(folder / "base")
    trained = load_student(read_manifest(folder).student, task, base, plan).module

    reloaded = module_of(folder, "as-trained")

    assert {n: p.dtype for n, p in reloaded.named_parameters()} == {
        n: p.dtype for n, p in trained.named_parameters()
    }
    adapters = {p.dtype for n, p in reloaded.named_parameters() if "lora_" in n}
    assert adapters == {torch.float32}
    assert weight_bytes(reloaded) < 0.75 * weight_bytes(module_of(folder, "float32"))


def weight_bytes(module: torch.nn.Module) -> int:
    return sum(p.nbytes for n, p in module.named_parameters() if "lora_" not in n)


def test_whole_weights_are_float32_as_trained_and_half_the_bytes_in_bf16(
    student: Callable[[str], Path],
) -> None:
    folder = student("whole")

    kept, halved = module_of(folder, "as-trained"), module_of(folder, "bf16")

    assert {p.dtype for p in kept.parameters()} == {torch.float32}
    assert weight_bytes(kept) == 2 * weight_bytes(halved)


@pytest.mark.parametrize("precision", ["as-trained", "bf16"])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_probabilities_are_near_those_of_float32_and_rationales_are_written(
    student: Callable[[str], Path],
    pairs: list[TrainingPair],
    kind: str,
    precision: Precision,
) -> None:
    texts = [pair.text for pair in pairs[:6]]
    exact = Predictor.load(student(kind)).scores(texts).exp()

    predictor = Predictor.load(student(kind), precision=precision)

    assert 0 < (exact - predictor.scores(texts).exp()).abs().max() < 0.05
    reasons = predictor.rationales(texts[:2])
    assert all(isinstance(reason, str) for reason in reasons) or kind == "classifier"


def test_bf16_leaves_the_angles_of_rotary_positions_in_float32(
    student: Callable[[str], Path],
) -> None:
    buffers = dict(module_of(student("llama"), "bf16").named_buffers())

    angles = {buffer.dtype for name, buffer in buffers.items() if "inv_freq" in name}

    assert angles == {torch.float32}


def test_an_adapter_trained_in_bf16_is_merged_and_compared_in_float32(
    student: Callable[[str], Path], pairs: list[TrainingPair], tmp_path: Path
) -> None:
    texts = [pair.text for pair in pairs[38:]]

    record = export_student(student("llama"), "merged", tmp_path / "out", texts, threads=1)

    assert record.check["probability"] < 1e-5


def test_evaluation_service_and_command_compute_as_trained(
    student: Callable[[str], Path],
    pairs: list[TrainingPair],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FINSTILL_THREADS", "1")
    folder, text = student("llama"), pairs[0].text
    (exact,) = Predictor.load(folder).predict([text])
    (expected,) = Predictor.load(folder, precision="as-trained").predict([text])
    assert expected.probabilities != exact.probabilities

    (evaluated,) = predict_examples(evaluation_of(folder, tmp_path), "student", [example(text)])
    (served,) = Shelf(threads=1, most=1).take(folder).predict([text])
    with pytest.raises(SystemExit):
        main(["predict", str(folder), text, "--json"])

    assert evaluated.probabilities == expected.probabilities
    assert served.probabilities == expected.probabilities
    assert json.loads(capsys.readouterr().out)["probabilities"] == expected.probabilities


def example(text: str) -> Example:
    return Example(id="one", text=text)


def evaluation_of(folder: Path, home: Path) -> StageContext:
    """A run whose student has been trained: the one in `folder`."""
    manifest = read_manifest(folder)
    config = RunConfig.model_validate(
        {
            "name": "small",
            "task": manifest.task.name,
            "data": {"kind": "jsonl", "path": "rows.jsonl"},
            "teacher": {"kind": "recorded", "answers": "answers.jsonl"},
            "student": manifest.student.model_dump(),
            "training": manifest.training.model_dump(),
            "evaluation": {"rationale_rows": 0},
        }
    )
    run = create_run(home / "runs", config)
    shutil.copytree(folder, run.system("student") / "model")
    return StageContext(
        settings_from_environment(), run, config, lambda *_, **__: None, lambda: False
    )
