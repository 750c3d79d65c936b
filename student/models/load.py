"""From a StudentConfig to weights, tokenizer and the module the trainer trains."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
)

from common.config.student import StudentConfig
from common.errors import StudentError
from common.task import TaskDefinition
from student.encoding import Encoder, TaskTokens
from student.models.causal import CausalStudent
from student.models.classifier import ClassifierStudent
from student.models.fuse import quicken
from student.models.isolation import require_isolated_branches
from student.models.limits import require_known_tokens, require_positions, require_window
from student.models.seq2seq import Seq2SeqStudent
from student.models.task_tokens import task_tokens
from student.models.warm_start import drop_pooler, is_encoder_alone, warm_start
from student.preflight import UNFIT
from student.quiet import quiet_libraries
from student.tokens import first_line, load_tokenizer

DROPOUTS = (
    "dropout_rate",
    "dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "attention_dropout",
    "activation_dropout",
)
HEADS = ("classifier", "classification_head", "score")
POOLER = "pooler"
UNQUANTIZED = ("switch_transformers",)  # casts what it computes to the type weights are stored in
AUTO_CLASSES: dict[str, Any] = {
    "seq2seq": AutoModelForSeq2SeqLM,
    "causal": AutoModelForCausalLM,
    "classifier": AutoModelForSequenceClassification,
}

StudentModule = Seq2SeqStudent | CausalStudent | ClassifierStudent


@dataclass(frozen=True, slots=True)
class Plan:
    """How weights are loaded: computing type, device, gradient checkpointing, row length."""

    compute: torch.dtype = torch.float32
    checkpointing: bool = False
    row_tokens: int = 256
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True, slots=True)
class LoadedStudent:
    """A student ready to train or predict. `fresh`: names of parameters no checkpoint had."""

    module: StudentModule
    tokenizer: PreTrainedTokenizerBase
    tokens: TaskTokens
    fresh: frozenset[str]

    @property
    def core(self) -> Any:
        """The transformers model itself."""
        return self.module.core


def load_student(
    config: StudentConfig, task: TaskDefinition, source: str, plan: Plan
) -> LoadedStudent:
    """
    Load the weights at `source` (a folder or hub name) as `config` wants them, ready to train.

    Raises StudentError where it is no model, lacks weights or knows other labels.
    """
    read_config(source, config.revision)  # first: of a missing folder, no tokenizer is missed
    tokenizer = load_tokenizer(config.tokenizer or source, config.revision)
    model, fresh = load_weights(config, task, source, plan)
    require_known_tokens(config, model, tokenizer)
    tokens = task_tokens(config, model, tokenizer)
    encoder = Encoder(config, task, tokenizer, tokens)
    require_positions(config, model, encoder)
    require_window(config, model, encoder, plan.row_tokens)
    if plan.checkpointing and not config.quantization:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if config.lora:
        from student.models.adapters import add_lora, prepare_quantized  # loads peft: seconds

        if frozen := sorted(name for name in fresh if not answering_part(name)):
            raise StudentError(
                f"student.lora: '{source}' starts with {len(frozen)} fresh weights, such as "
                f"{frozen[0]}, which adapters would freeze at random; expected no `lora:` here: "
                "train the whole student, or start from a checkpoint that has them."
            )
        if config.quantization:
            model = prepare_quantized(model, plan.compute, plan.checkpointing)
        model = add_lora(model, config.lora, config, fresh)
    return wrap(config, task, model, tokenizer, tokens, fresh, plan)


def wrap(
    config: StudentConfig,
    task: TaskDefinition,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    tokens: TaskTokens,
    fresh: Iterable[str],
    plan: Plan,
) -> LoadedStudent:
    """Put a loaded model into the module of its architecture."""
    module: StudentModule
    if config.architecture != "seq2seq":  # an adapter's folder has no config that would say it
        model.config.pad_token_id = tokens.pad
    match config.architecture:
        case "seq2seq":
            module = Seq2SeqStudent(model, tokens.pad)
        case "causal":
            module = CausalStudent(model, tokens.pad, plan.row_tokens)
        case "classifier":
            module = ClassifierStudent(model, tokens.pad, label_order(model.config, task))
    quicken(module)
    module.to(plan.device)
    return LoadedStudent(module, tokenizer, tokens, frozenset(f"model.{n}" for n in fresh))


def load_weights(
    config: StudentConfig, task: TaskDefinition, source: str, plan: Plan
) -> tuple[Any, set[str]]:
    """The transformers model of a source and the names of its fresh parameters."""
    shape = read_config(source, config.revision)
    if config.architecture == "seq2seq" and shape.model_type in UNFIT["seq2seq"]:
        raise StudentError(
            f"student.model: '{source}' could not be loaded as seq2seq, which models of the type "
            f"{shape.model_type} do not fit; expected T5, BART, Pegasus or another encoder-decoder."
        )
    if config.quantization and shape.model_type in UNQUANTIZED:
        raise StudentError(
            f"student.quantization: '{source}' is of the type {shape.model_type}, whose layers "
            "take their states for 4-bit ones too; expected no `quantization:` here."
        )
    changes = _changes(shape, config, task)
    options = _options(config, plan)
    quiet_libraries()
    try:
        if config.architecture == "seq2seq" and is_encoder_alone(shape):
            model, fresh, missing = warm_start(source, options, changes)
        else:
            model, fresh, missing = _from_pretrained(config, shape, source, options, changes)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise StudentError(
            f"student.model: '{source}' could not be loaded as {config.architecture} "
            f"({type(error).__name__}: {first_line(error)}); expected a transformers model of "
            "that kind."
        ) from error
    if config.quantization:
        from student.models.adapters import keep_differentiable

        keep_differentiable(model)
    if missing and not config.allow_fresh_weights:
        raise StudentError(
            f"student.model: '{source}' lacks {len(missing)} weights, such as {missing[0]}; they "
            "would start random. Expected a complete checkpoint; set "
            "student.allow_fresh_weights=true to train them from nothing."
        )
    if config.architecture == "causal":
        require_isolated_branches(config.model, model)
    return model, fresh | set(missing)


def read_config(source: str, revision: str | None) -> Any:
    """A model's config. Raises StudentError for a folder or name that is no model."""
    try:
        return AutoConfig.from_pretrained(source, revision=revision)
    except Exception as error:  # what a config.json holds is checked by errors of many classes
        raise StudentError(
            f"student.model: '{source}' is no model folder or reachable hub name "
            f"({type(error).__name__}: {first_line(error)}); expected a folder with config.json "
            "and safetensors weights."
        ) from error


def _from_pretrained(
    config: StudentConfig, shape: Any, source: str, options: dict[str, Any], changes: dict[str, Any]
) -> tuple[Any, set[str], list[str]]:
    for part in _parts(shape):
        for name, value in changes.items():
            setattr(part, name, value)
    model, report = AUTO_CLASSES[config.architecture].from_pretrained(
        source, config=shape, output_loading_info=True, **options
    )
    missing = sorted(report["missing_keys"])
    if config.architecture == "seq2seq" and shape.model_type == "encoder-decoder":
        drop_pooler(model)
        missing = [name for name in missing if answering_part(name) != POOLER]
    if config.architecture != "classifier":
        return model, set(), missing
    # A classifier's head, and the pooler under it, is fresh when an encoder is fine-tuned.
    head = {k for k in missing if answering_part(k)}
    return model, head, [k for k in missing if k not in head]


def answering_part(name: str) -> str | None:
    """The part a weight belongs to if that is a classifier's head or the pooler under it."""
    parts = name.split(".")
    if parts[0] in HEADS:
        return parts[0]
    return POOLER if POOLER in parts else None


def _options(config: StudentConfig, plan: Plan) -> dict[str, Any]:
    on_gpu = plan.device.type == "cuda"
    # Frozen weights may stay in the computing type; trained ones are float32 masters (autocast).
    dtype = plan.compute if config.lora else torch.float32
    options: dict[str, Any] = {
        "dtype": dtype,
        "revision": config.revision,
        # Eager attention trains 1.13 x faster than sdpa on CPU (docs: reference measurements).
        "attn_implementation": config.attention or ("sdpa" if on_gpu else "eager"),
    }
    if config.quantization:
        from student.models.adapters import nf4

        options["quantization_config"] = nf4(plan.compute, config.architecture)
        options["device_map"] = {"": plan.device}
    return options


def _changes(shape: Any, config: StudentConfig, task: TaskDefinition) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if config.dropout is not None:
        changes = {name: config.dropout for name in DROPOUTS if hasattr(_parts(shape)[0], name)}
    if config.architecture == "causal" and is_encoder_alone(shape):
        changes["is_decoder"] = True  # else a token sees those after it, the answer among them
    if config.architecture == "classifier" and not _has_own_labels(shape):
        names = task.label_names
        changes |= {
            "id2label": dict(enumerate(names)),
            "label2id": {name: i for i, name in enumerate(names)},
        }
    return changes


def _parts(shape: Any) -> list[Any]:
    """The config, or both of a model made of two: their joint one reaches neither."""
    return [shape.encoder, shape.decoder] if shape.model_type == "encoder-decoder" else [shape]


def _has_own_labels(shape: Any) -> bool:
    return not all(str(name).startswith("LABEL_") for name in shape.id2label.values())


def label_order(shape: Any, task: TaskDefinition) -> list[int]:
    """
    Where each of the task's labels stands in a classifier's head.

    Raises StudentError where the head knows other labels: its weights mean something else.
    """
    known = {str(name).lower(): int(i) for i, name in shape.id2label.items()}
    if set(known) != {name.lower() for name in task.label_names}:
        raise StudentError(
            f"student.model: its classification head knows the labels {sorted(known)}, the task "
            f"'{task.name}' has {sorted(task.label_names)}; expected the same set, or an encoder "
            "without a head."
        )
    return [known[name.lower()] for name in task.label_names]
