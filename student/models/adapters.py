"""LoRA adapters (Hu et al. 2022) and NF4 base weights (Dettmers et al. 2023, QLoRA)."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from common.config.student import LoraSection, StudentConfig
from common.errors import ConfigError
from student.models.load import HEADS, POOLER, answering_part
from student.quiet import outdated_calls_forgiven
from student.tokens import first_line

TASKS = {
    "seq2seq": TaskType.SEQ_2_SEQ_LM,
    "causal": TaskType.CAUSAL_LM,
    "classifier": TaskType.SEQ_CLS,
}


def nf4(compute: torch.dtype, architecture: str) -> BitsAndBytesConfig:
    """
    4-bit NormalFloat with double quantisation, computing in `compute`.

    transformers spares a language model's head itself. A classifier's may be fresh, and what is in
    no checkpoint is never quantised, yet would be computed as if it were.
    """
    answering = [*HEADS, f".*{POOLER}"] if architecture == "classifier" else None
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=answering,
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


def add_lora(
    model: Any, lora: LoraSection, student: StudentConfig, fresh: Collection[str] = ()
) -> Any:
    """
    Wrap the model with trainable adapters. `fresh` heads and poolers are trained and saved whole:
    frozen, they would stay random, and be others at each loading.

    Raises ConfigError for targets it does not have or that take none, and for a rank above them.
    """
    whole = {part for name in fresh if (part := answering_part(name))}
    targets = {n: s for n, s in _targets(model, lora).items() if not set(n.split(".")) & whole}
    if not targets:
        raise ConfigError(
            f"student.lora.targets: {lora.targets} names only layers that start fresh and are "
            "trained whole anyway; expected layers of the checkpoint, or all-linear."
        )
    name, narrowest = min(targets.items(), key=lambda item: min(item[1]))
    if lora.rank > min(narrowest):
        raise ConfigError(
            f"student.lora.rank: {lora.rank} is more than a layer it is for can use: {name} is "
            f"{narrowest[0]} by {narrowest[1]}; expected at most {min(narrowest)}."
        )
    config = LoraConfig(
        task_type=TASKS[student.architecture],
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        modules_to_save=sorted(whole) or None,
        exclude_modules=rf".*\b({'|'.join(sorted(whole))})\b.*" if whole else None,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),  # GPT-2's layers
    )
    whole_in_float32(model, whole)
    try:
        with outdated_calls_forgiven():
            return get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"student.lora: peft cannot put adapters on {lora.targets} of this model "
            f"({type(error).__name__}: {first_line(error)}); expected the names of linear layers, "
            "or all-linear."
        ) from error


def whole_in_float32(model: Any, names: Collection[str]) -> None:
    """
    Hold the parts that are trained whole beside adapters in float32, as those are.

    In bfloat16 an update of less than 1/256 of a weight is lost: at a rate of 2e-5 two thirds of a
    head's weights never moved.
    """
    for name, part in model.named_modules():
        if _last(name) in names:
            part.float()


def _targets(model: Any, lora: LoraSection) -> dict[str, tuple[int, int]]:
    """The sizes of the layers that adapters are for, by name. Raises ConfigError."""
    parts = {name: part for name, part in model.named_modules() if name}
    takes = {name: sizes for name, part in parts.items() if (sizes := _sizes(part))}
    if lora.targets == "all-linear":  # peft leaves out what gives the answer, and so does this
        out = model.get_output_embeddings()
        inner = [n for n in takes if parts[n] is not out and not set(n.split(".")) & set(HEADS)]
        return {n: takes[n] for n in inner if isinstance(parts[n], torch.nn.Linear | Conv1D)}
    for target in lora.targets:
        _require_target(target, parts, takes.keys())
    return {n: sizes for n, sizes in takes.items() if _last(n) in lora.targets}


def _require_target(target: str, parts: Mapping[str, Any], takes: Collection[str]) -> None:
    named = [name for name in parts if _last(name) == target]
    known = ", ".join(sorted({_last(name) for name in takes}))
    if not named:
        raise ConfigError(
            f"student.lora.targets: the model has no layers named {target}; it has {known}."
        )
    if unfit := [name for name in named if name not in takes]:
        raise ConfigError(
            f"student.lora.targets: '{target}' is a {type(parts[unfit[0]]).__name__}, which takes "
            f"no adapter; expected some of {known}."
        )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _sizes(part: Any) -> tuple[int, int] | None:
    """Width in and out of a layer that multiplies by a matrix, None for any other."""
    if isinstance(part, torch.nn.Linear):  # of 4-bit weights the stored shape says nothing
        return part.in_features, part.out_features
    weight = getattr(part, "weight", None)
    fits = isinstance(weight, torch.Tensor) and weight.dim() > 1
    return (weight.shape[0], weight.shape[1]) if fits and weight is not None else None
