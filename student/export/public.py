"""What a student's files tell others: names of models, no place on this machine. Needs no torch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import StudentError

Tree = dict[str, Any]

CARD = "README.md"  # peft's own is empty but for the base's place on this machine
OWN_BASE = "base"  # a tiny student's, which lies in its folder


def is_local(source: str) -> bool:
    """Whether a model's source is a folder of this machine, and no hub name."""
    return Path(source).exists() or source.startswith("/")


def public_name(source: str) -> str:
    """A hub name as it is, a local folder by its last part: no path leaves this machine."""
    return Path(source).name if is_local(source) else source


def public_manifest(manifest: Tree) -> Tree:
    """A manifest that names models alone. The tokenizer lies beside it: its source is not told."""
    student = manifest["student"]
    told = {**student, "tokenizer": None, "model": public_name(student["model"])}
    return {**manifest, "student": told, "base": public_name(manifest["base"])}


def public_config(config: Tree) -> Tree:
    """
    A config.json fit for other libraries and other machines.

    transformers 5 calls every T5 tied: where the output matrix is its own, the file says so here,
    or others believe it and scale the output. The halves of a warm-started encoder-decoder name the
    folder they were read from: its last part stays.
    """
    told = {k: _without_place(v) if isinstance(v, dict) else v for k, v in config.items()}
    if config.get("scale_decoder_outputs") is False:
        told["tie_word_embeddings"] = False
    return told


def _without_place(part: Tree) -> Tree:
    source = part.get("_name_or_path")
    return {**part, "_name_or_path": public_name(source)} if source else part


def adapter_on(config: Tree, base: str) -> Tree:
    """An adapter_config.json that names the base its manifest names."""
    return {**config, "base_model_name_or_path": base}


def public_files(folder: Path) -> dict[Path, bytes]:
    """
    The files of a model folder that may name places of this machine, as others get them.

    They are those of an `hf` export, but that an adapter's local base is told by its name too.
    Raises StudentError where one cannot be read.
    """
    manifest = folder / "manifest.json"
    found = {manifest: _rewritten(manifest, public_manifest)}
    base = str(json.loads(found[manifest])["base"])
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        found[adapter] = _rewritten(adapter, lambda config: adapter_on(config, base))
    for path in folder.rglob("config.json"):
        found[path] = _rewritten(path, public_config)
    return found


def _rewritten(path: Path, change: Callable[[Tree], Tree]) -> bytes:
    try:
        tree = change(json.loads(path.read_bytes()))
    except (ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        raise StudentError(
            f"'{path}' cannot be read ({type(error).__name__}); expected the unchanged model/ "
            "folder of a finished training: train the student again."
        ) from error
    return json.dumps(tree, indent=1).encode() + b"\n"
