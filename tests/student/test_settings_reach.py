"""What a config asks for arrives where it takes effect: weights, adapters, layers, optimizer."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from student import arguments
from student import train as training_module
from student.defaults import Hyperparameters, hyperparameters
from student.models.causal import CausalStudent
from student.trainer import StepByStepTrainer

Tiny = Callable[..., StudentConfig]


class Watched(StepByStepTrainer):
    """Counts how often the attention of the lowest layer is computed while it trains."""

    latest: "Watched"

    def __init__(self, module: torch.nn.Module, *rest: Any, **more: Any):
        super().__init__(module, *rest, **more)
        Watched.latest, self.passes = self, 0
        names = ("self_attn", "attn", "SelfAttention")
        lowest = next(p for n, p in module.named_modules() if n.rpartition(".")[2] in names)
        lowest.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.passes += self.student.training


@pytest.fixture
def trained(
    train: Callable[..., Any], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Watched]:
    """The trainer of one step over one micro-batch, after it."""
    monkeypatch.setattr(training_module, "StepByStepTrainer", Watched)

    def run(architecture: str, family: str, student: dict[str, Any], **training: Any) -> Watched:
        config = tiny(architecture, family, **student)
        train(student=config, max_steps=1, micro_batch_size=8, **training)
        return Watched.latest

    return run


def test_quantisation_and_adapters_are_what_the_config_says(
    trained: Callable[..., Watched],
) -> None:
    lora = {"rank": 4, "alpha": 12, "dropout": 0.25}
    told = {"lora": lora, "quantization": "nf4"}
    trainer = trained("causal", "llama", told, row_tokens=77)

    parts = list(trainer.student.modules())
    adapted: list[Any] = [p for p in parts if hasattr(p, "lora_A")]
    packed = [p.base_layer.weight for p in adapted]
    assert packed
    assert {(w.quant_state.quant_type, w.quant_state.nested) for w in packed} == {("nf4", True)}
    assert {p.scaling["default"] for p in adapted} == {12 / 4}
    assert {p.lora_dropout["default"].p for p in adapted} == {0.25}
    assert isinstance(trainer.student, CausalStudent)
    assert trainer.student.row_tokens == 77
    assert trainer.passes == 2  # 4-bit students checkpoint unless told otherwise


@pytest.mark.parametrize("more", [{}, {"lora": {"rank": 2}}], ids=["whole", "lora"])
@pytest.mark.parametrize(
    ("architecture", "family"), [("causal", "gpt2"), ("causal", "llama"), ("seq2seq", "t5")]
)
def test_checkpointed_activations_are_computed_twice_and_no_others(
    trained: Callable[..., Watched], architecture: str, family: str, more: dict[str, Any]
) -> None:
    given = (architecture, family, more)
    assert trained(*given, name="twice", gradient_checkpointing=True).passes == 2
    assert trained(*given, name="once", gradient_checkpointing=False).passes == 1


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedule_optimizer_and_clipping_reach_the_trainer(
    schedule: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(arguments, "TrainingArguments", SimpleNamespace)
    given = {"schedule": schedule, "warmup_share": 0.0, "max_grad_norm": 0.125, "max_steps": 9}
    training = TrainingConfig.model_validate(given)
    student = StudentConfig.model_validate(
        {"architecture": "causal", "model": "some/llama", "lora": {}, "quantization": "nf4"}
    )
    chosen = hyperparameters(student, training)

    def told(gpu: bool, chosen: Hyperparameters = chosen) -> Any:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        return arguments.training_arguments(training, chosen, tmp_path, [], evaluate=False)

    assert SchedulerType(told(gpu=True).lr_scheduler_type).value == schedule
    assert told(gpu=True).max_grad_norm == 0.125
    assert OptimizerNames(told(gpu=True).optim) is OptimizerNames.PAGED_ADAMW_8BIT
    assert OptimizerNames(told(gpu=False).optim) is OptimizerNames.ADAMW_TORCH_FUSED
    whole = hyperparameters(student.model_copy(update={"lora": None}), training)
    assert OptimizerNames(told(gpu=True, chosen=whole).optim) is OptimizerNames.ADAMW_TORCH_FUSED
