"""Plain Hugging Face folders: the student as it is, or its adapter merged into whole weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from common.errors import StudentError
from student.checkpoint import Manifest
from student.export.public import CARD, adapter_on, public_config
from student.models.load import Plan, load_weights
from student.models.reload import read_adapter, read_whole
from student.quiet import outdated_calls_forgiven, quiet_libraries


def write_as_trained(folder: Path, target: Path) -> None:
    """Copy a model folder: whole weights, or an adapter that names its base."""
    shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(CARD))
    for path in target.rglob("config.json"):
        mend_config(path)


def name_base(folder: Path, base: str) -> None:
    """Let an adapter name the base its manifest names; a tiny one lies in the folder itself."""
    path = folder / "adapter_config.json"
    tree = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(adapter_on(tree, base), indent=2) + "\n", "utf-8")


def write_merged(folder: Path, manifest: Manifest, target: Path) -> None:
    """Write float32 weights that need neither peft nor bitsandbytes, with a config others read."""
    model = merged_model(folder, manifest)
    model.config.use_cache = True
    model.save_pretrained(target)
    mend_config(target / "config.json")


def merged_model(folder: Path, manifest: Manifest) -> Any:
    """
    The student as one transformers model in float32, its adapter merged in.

    Merging into 4-bit weights rounds the adapter away (a loss of 1.43 became 8.52 in our
    measurements). The adapter goes into the base in full precision, and where it was trained on
    4-bit weights, into the values those stand for: that is the function that was trained and
    judged, while the original weights are close to it only. Raises StudentError for damaged files.
    """
    quiet_libraries()
    if not manifest.student.lora:
        plain = manifest.student.model_copy(update={"attention": "eager"})
        return read_whole(folder, plain, Plan())
    base = str(folder / "base" if manifest.base == "base" else manifest.base)
    whole = manifest.student.model_copy(update={"quantization": None})
    model, _ = load_weights(whole, manifest.task, base, Plan())
    if manifest.student.quantization:
        _take_dequantised(model, manifest, base)
    adapted = read_adapter(model, folder, base)
    with outdated_calls_forgiven():
        merged = adapted.merge_and_unload()
    if manifest.student.architecture != "seq2seq":
        merged.config.pad_token_id = manifest.tokens["pad"]
    return merged


@torch.no_grad()
def _take_dequantised(model: Any, manifest: Manifest, base: str) -> None:
    from bitsandbytes.functional import dequantize_4bit

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quantised, _ = load_weights(manifest.student, manifest.task, base, Plan(device=device))
    parameters = dict(model.named_parameters())
    for name, parameter in quantised.named_parameters():
        if type(parameter).__name__ == "Params4bit":
            values = dequantize_4bit(parameter.data, parameter.quant_state)
            parameters[name].copy_(values.to(parameters[name]))


def mend_config(path: Path) -> None:
    """Make a config.json fit for other libraries and other machines; see public_config."""
    tree = json.loads(path.read_text("utf-8"))
    mended = public_config(tree)
    if mended != tree:
        path.write_text(json.dumps(mended, indent=2) + "\n", "utf-8")


def refuse(form: str, kind: str, instead: str) -> StudentError:
    """The error for a form that a kind of student does not come in."""
    return StudentError(
        f"export --format {form}: not possible for a {kind} student; use --format {instead}."
    )
