"""4-bit base weights under adapters: they train, also after an evaluation, and stay small."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.config.student import StudentConfig
from common.records import TrainingPair
from common.task import TaskDefinition
from student.encoding import Encoder, encode_pairs
from student.memory import parameter_counts
from student.models.load import LoadedStudent, Plan, load_student
from student.models.tiny import prepare_tiny, tiny_texts
from student.steps import Objective, batch_totals, micro_batch_terms


@pytest.fixture(params=["tiny-random", "stories260K"])
def source(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    make_pairs: Callable[[int], list[TrainingPair]],
) -> str:
    if request.param == "tiny-random":
        shape = tiny("causal", "llama").tiny
        assert shape
        texts = tiny_texts(make_pairs(9), task, "default")
        return str(prepare_tiny(tmp_path / "base", shape, texts, 1))
    models: Path = request.getfixturevalue("shared_models")
    return str(models / request.param)


def load(task: TaskDefinition, source: str, *, quantized: bool = True) -> LoadedStudent:
    config = StudentConfig.model_validate(
        {
            "architecture": "causal",
            "model": source,
            "lora": {"rank": 4, "dropout": 0.0},
            "quantization": "nf4" if quantized else None,
        }
    )
    torch.manual_seed(0)
    return load_student(config, task, source, Plan())


def gradient_norms(
    loaded: LoadedStudent, task: TaskDefinition, pairs: list[TrainingPair], evaluate_first: bool
) -> list[float]:
    config = StudentConfig(architecture="causal", model="x")
    encoder = Encoder(config, task, loaded.tokenizer, loaded.tokens)
    examples = encode_pairs(encoder, pairs)
    device = torch.device("cpu")
    if evaluate_first:
        loaded.module.eval()
        with torch.no_grad():
            micro_batch_terms(loaded.module, examples, Objective(), device)
    loaded.module.train()
    terms = micro_batch_terms(loaded.module, examples, Objective(), device)
    terms.loss(batch_totals(examples), 1.0).backward()  # type: ignore[no-untyped-call]
    return [
        float(p.grad.norm())
        for n, p in loaded.module.named_parameters()
        if p.grad is not None and "lora_B" in n
    ]


def test_gradients_reach_all_adapters_also_after_an_evaluation(
    task: TaskDefinition, source: str, make_pairs: Callable[[int], list[TrainingPair]]
) -> None:
    before = gradient_norms(load(task, source), task, make_pairs(5), evaluate_first=False)

    after = gradient_norms(load(task, source), task, make_pairs(5), evaluate_first=True)

    assert all(norm > 0 for norm in after)
    assert after == pytest.approx(before, rel=1e-5)


def test_quantized_and_full_base_count_the_same_parameters(
    task: TaskDefinition, source: str
) -> None:
    assert parameter_counts(load(task, source).module) == parameter_counts(
        load(task, source, quantized=False).module
    )


def test_base_takes_about_half_a_byte_per_weight(task: TaskDefinition, source: str) -> None:
    module = load(task, source).module

    packed = [p for p in module.parameters() if p.dtype == torch.uint8]
    full = [p for p in load(task, source, quantized=False).module.parameters() if p.ndim == 2]

    assert packed
    assert sum(p.nbytes for p in packed) < 0.5 * sum(p.numel() for p in full)
