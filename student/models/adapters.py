"""LoRA adapters (Hu et al. 2022) and NF4 base weights (Dettmers et al. 2023, QLoRA)."""

from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from common.config.student import LoraSection, StudentConfig
from common.errors import ConfigError
from student.quiet import outdated_calls_forgiven

TASKS = {
    "seq2seq": TaskType.SEQ_2_SEQ_LM,
    "causal": TaskType.CAUSAL_LM,
    "classifier": TaskType.SEQ_CLS,
}


def nf4(compute: torch.dtype) -> BitsAndBytesConfig:
    """4-bit NormalFloat with double quantisation, computing in `compute`."""
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def keep_differentiable(model: Any) -> None:
    """
    Forbid bitsandbytes 0.50 to repack 4-bit weights for its CPU inference kernel.

    A forward pass in evaluation mode repacks them for good where the CPU has AVX512-BF16, and that
    kernel has no backward: the first validation would cut all lower layers off from their
    gradients, with nothing but a warning.
    """
    for part in model.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False


def prepare_quantized(model: Any, compute: torch.dtype, checkpointing: bool) -> Any:
    """
    Freeze the base and keep its norms in float32.

    peft casts everything unquantised to float32, the embedding and the head included: for Llama 3
    8B that would be 4.2 GB instead of 2.1. They go back to the computing type.
    """
    with outdated_calls_forgiven():
        model = prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
            model,
            use_gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        )
    for part in (model.get_input_embeddings(), model.get_output_embeddings()):
        if part is not None:
            part.to(compute)
    return model


def add_lora(model: Any, lora: LoraSection, student: StudentConfig) -> Any:
    """Wrap the model with trainable adapters. Raises ConfigError for targets it does not have."""
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    strangers = [] if lora.targets == "all-linear" else sorted(set(lora.targets) - names)
    if strangers:
        raise ConfigError(
            f"student.lora.targets: the model has no layers named {', '.join(strangers)}; "
            f"it has {', '.join(sorted(n for n in names if n and not n.isdigit()))}."
        )
    config = LoraConfig(
        task_type=TASKS[student.architecture],
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),  # GPT-2's layers
    )
    with outdated_calls_forgiven():
        return get_peft_model(model, config)
