"""
What can be known of a student before anything is paid for. Light: no torch, no transformers.

What only the loaded model can tell is left to `student.models.load`.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.config.base import suggestion
from common.config.student import TINY, TINY_POSITIONS, StudentConfig
from common.config.training import TrainingConfig
from common.errors import ConfigError, InputError, MissingDependency
from common.task import TaskDefinition

# The Trainer's reporters and the modules each of them imports.
REPORTERS: dict[str, tuple[str, ...]] = {
    "azure_ml": ("azureml",),
    "clearml": ("clearml",),
    "codecarbon": ("codecarbon",),
    "comet_ml": ("comet_ml",),
    "dagshub": ("dagshub", "mlflow"),
    "dvclive": ("dvclive",),
    "flyte": ("flytekit",),
    "kubeflow": (),
    "mlflow": ("mlflow",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
PACKAGES = {"azureml": "azureml-core"}  # where pip knows a module by another name
# A classifier can be made of every family.
FAMILIES = {"seq2seq": {"t5", "bert"}, "causal": {"gpt2", "llama", "bert"}}
# Types of models that are certain not to be what the architecture needs; others are tried.
UNFIT = {
    # ProphetNet predicts several tokens at once, FSMT turns batch and length around.
    "seq2seq": {"fsmt", "gpt2", "gpt_neo", "gpt_neox", "gemma", "gemma2", "llama", "mistral",
                "mixtral", "opt", "phi", "phi3", "prophetnet", "qwen2", "qwen3"},
    # Packed rows need a mask and positions that are heeded: no state-space, convolution or
    # linear-attention layers, no ALiBi (student/models/isolation.py).
    "causal": {"t5", "mt5", "umt5", "longt5", "bamba", "bloom", "falcon_h1", "falcon_mamba",
               "jamba", "lfm2", "lfm2_moe", "mamba", "mamba2", "mpt", "openai-gpt", "qwen3_next",
               "recurrent_gemma", "rwkv", "xlnet", "zamba", "zamba2"},
}  # fmt: skip
# Models whose positions are a table, which ends: student/models/limits.py asks the model itself.
TABLED = {"albert", "bart", "bert", "camembert", "distilbert", "electra", "gpt2", "gpt_neo",
          "mpnet", "opt", "roberta", "xlm-roberta"}  # fmt: skip


def require_trainable(
    name: str, student: StudentConfig, training: TrainingConfig, task: TaskDefinition, here: bool
) -> None:
    """
    Refuse what cannot end well. `name`: the system's; `here`: it is trained on this very host, so
    that its folders and packages can be looked for.

    Raises ConfigError, InputError, MissingDependency.
    """
    where = "" if name == "student" else f"baselines.{name}."
    try:
        task.student_prompt(student.prompt)
        _require_tiny(student)
        _require_copier(student, training)
        require_known_reporters(training.report_to)
        if here:
            require_reporters(training.report_to)
            _require_model(student)
    except (ConfigError, InputError, MissingDependency) as error:
        raise type(error)(f"{where}{error}") from error


def _require_copier(student: StudentConfig, training: TrainingConfig) -> None:
    if training.copying and student.architecture != "seq2seq":
        raise ConfigError(
            "training.copying teaches a decoder to look at what its encoder reads, and a "
            f"{student.architecture} student has no such two; expected architecture: seq2seq, or "
            "no `copying:` here."
        )


def require_known_reporters(names: Sequence[str]) -> None:
    """Raises ConfigError for a name the Trainer does not know."""
    for name in names:
        if name != "none" and name not in REPORTERS:
            raise ConfigError(
                f"training.report_to: '{name}' is no reporter{suggestion(name, REPORTERS)}; "
                f"expected some of {', '.join(REPORTERS)}, or none."
            )


def require_reporters(names: Sequence[str]) -> None:
    """Raises MissingDependency where a reporter's package is not installed."""
    for name in names:
        absent = [m for m in REPORTERS.get(name, ()) if find_spec(m) is None]
        if absent:
            packages = " ".join(PACKAGES.get(module, module) for module in absent)
            raise MissingDependency(
                f"training.report_to: '{name}' is not installed; pip install {packages}, or leave "
                "it out."
            )


def _require_tiny(student: StudentConfig) -> None:
    if not student.tiny:
        return
    families = FAMILIES.get(student.architecture)
    if families and student.tiny.family not in families:
        raise ConfigError(
            f"student.tiny.family: '{student.tiny.family}' cannot be trained as "
            f"{student.architecture}; expected {' or '.join(sorted(families))}."
        )
    _require_positions(student, student.tiny.family, TINY_POSITIONS)
    _require_rank(student, student.tiny.hidden)


def _require_model(student: StudentConfig) -> None:
    if student.model == TINY:
        return
    for key in ("model", "tokenizer"):
        value = getattr(student, key)
        if value and _is_path(value) and not Path(value).is_dir():
            raise InputError(
                f"student.{key}: there is no folder '{value}'; expected a folder with "
                f"{'config.json and weights' if key == 'model' else 'a tokenizer'}, or a hub name."
            )
    if (folder := Path(student.model)).is_dir():
        _require_fit(student, _shape(folder))
        if not any(p.suffix in (".safetensors", ".bin") for p in folder.iterdir()):
            raise InputError(
                f"student.model: '{folder}' holds no weights; expected model.safetensors beside "
                "config.json."
            )


def _is_path(value: str) -> bool:
    """Whether no hub name is spelled so: those are NAME or OWNER/NAME."""
    return value.startswith(("/", ".", "~")) or value.count("/") > 1 or Path(value).exists()


def _shape(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"student.model: '{folder}' has no config.json; expected the folder of a transformers "
            "model."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"student.model: '{path}' cannot be read as JSON ({error}); expected that of a "
            "transformers model: fetch the folder again."
        ) from error
    if not isinstance(told, dict) or not isinstance(told.get("model_type"), str):
        raise InputError(
            f"student.model: '{path}' names no model_type; expected that of a transformers model."
        )
    return told


def _require_fit(student: StudentConfig, shape: Mapping[str, Any]) -> None:
    kind = shape["model_type"]
    if kind in UNFIT.get(student.architecture, ()):
        raise ConfigError(
            f"student.architecture: '{student.model}' is of the type {kind} and cannot be trained "
            f"as {student.architecture}; expected another architecture or model."
        )
    _require_positions(
        student, kind, shape.get("max_position_embeddings", shape.get("n_positions"))
    )
    widths = [shape.get(key) for key in ("hidden_size", "d_model", "n_embd")]
    _require_rank(student, next((width for width in widths if width), None))


def _require_positions(student: StudentConfig, kind: str, known: object) -> None:
    asked = student.max_input_tokens
    if student.architecture == "causal":
        asked += student.max_rationale_tokens
    if kind in TABLED and isinstance(known, int) and asked > known:
        raise ConfigError(
            f"student.max_input_tokens: {student.max_input_tokens} tokens"
            f"{' and a rationale' if asked > student.max_input_tokens else ''} need {asked} "
            f"positions, and the model '{student.model}' has learnt {known}; expected fewer."
        )


def _require_rank(student: StudentConfig, width: object) -> None:
    if student.lora and isinstance(width, int) and student.lora.rank > width:
        raise ConfigError(
            f"student.lora.rank: {student.lora.rank} is more than the width of the model "
            f"'{student.model}', which is {width}; expected at most the width of its narrowest "
            "layer, such as 8 or 16."
        )
