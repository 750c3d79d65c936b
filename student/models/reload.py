"""A finished student read back from its folder."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from common.config.student import StudentConfig
from common.errors import StudentError
from student.checkpoint import Manifest
from student.encoding import known_tokens
from student.models.isolation import require_isolated_branches
from student.models.load import AUTO_CLASSES, LoadedStudent, Plan, load_weights, wrap
from student.models.warm_start import drop_pooler
from student.quiet import outdated_calls_forgiven, quiet_libraries
from student.tokens import load_tokenizer


def reload_student(
    folder: Path,
    manifest: Manifest,
    device: torch.device,
    compute: torch.dtype = torch.float32,
) -> LoadedStudent:
    """
    Load the student of `folder` with weights in `compute`, ready to predict.

    What is 4-bit stays 4-bit and computes in `compute`; adapters are float32. So loaded, a LoRA
    student takes what it took in a training that computed in `compute`. Raises StudentError where
    its files are damaged or its base is gone.
    """
    config = manifest.student
    quiet_libraries()
    plan = Plan(compute=compute, device=device)
    tokenizer = load_tokenizer(str(folder))
    tokens = known_tokens(manifest.tokens, tokenizer, folder)
    model = _adapted(folder, manifest, plan) if config.lora else read_whole(folder, config, plan)
    return wrap(config, manifest.task, model, tokenizer, tokens, (), plan)


def read_whole(folder: Path, config: StudentConfig, plan: Plan) -> Any:
    """A transformers model from the whole weights in `folder`. Raises StudentError."""
    try:
        model = AUTO_CLASSES[config.architecture].from_pretrained(
            folder,
            dtype=plan.compute,
            attn_implementation=config.attention
            or ("sdpa" if plan.device.type == "cuda" else "eager"),
        )
        drop_pooler(model)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StudentError(
            f"student folder '{folder}' cannot be loaded ({type(error).__name__}); expected the "
            "unchanged model/ folder of a finished training: train the student again."
        ) from error
    if config.architecture == "causal":
        require_isolated_branches(config.model, model)
    return model


def _adapted(folder: Path, manifest: Manifest, plan: Plan) -> Any:
    base = folder / "base" if manifest.base == "base" else manifest.base
    model, _ = load_weights(manifest.student, manifest.task, str(base), plan)
    if manifest.student.quantization:
        from student.models.adapters import prepare_quantized

        model = prepare_quantized(model, plan.compute, checkpointing=False)
    return read_adapter(model, folder, str(base))


def read_adapter(model: Any, folder: Path, base: str) -> Any:
    """The adapter in `folder` on the model of `base`. Raises StudentError."""
    from peft import PeftConfig, PeftModel

    from student.models.adapters import whole_in_float32

    try:
        # Else what was trained in float32 would be rounded to the base's type while it is read.
        whole_in_float32(model, PeftConfig.from_pretrained(str(folder)).modules_to_save or ())
        with outdated_calls_forgiven():
            return PeftModel.from_pretrained(model, folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StudentError(
            f"student folder '{folder}' holds no adapter that fits '{base}' "
            f"({type(error).__name__}); expected the unchanged model/ folder and its base."
        ) from error
