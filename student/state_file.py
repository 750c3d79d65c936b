"""Nested state in one safetensors file: tensors as they are, all else as JSON in its header."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_KEY = "state"


def write_state(state: Any, path: Path) -> None:
    """
    Write dicts, lists, tuples, numbers, strings, None, tensors and numpy arrays of numbers.

    No pickle: a checkpoint is read on other machines, and reading it must not run what it says.
    Raises TypeError for anything else.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_packed(state, tensors, {}))
    save_file(tensors, path, metadata={_KEY: text})


def read_state(path: Path) -> Any:
    """What `write_state` was given; tensors on the CPU."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _unpacked(json.loads(file.metadata()[_KEY]), tensors)


def _packed(value: Any, tensors: dict[str, Tensor], seen: dict[tuple[Any, ...], str]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {"dict": [[key, _packed(v, tensors, seen)] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_packed(v, tensors, seen) for v in value]}
    if isinstance(value, np.ndarray):
        signed = torch.from_numpy(value.astype(np.int64 if value.dtype.kind in "iu" else float))
        return {"array": [_kept(signed, tensors, {}), str(value.dtype)]}
    if isinstance(value, Tensor):
        return {"tensor": _kept(value, tensors, seen)}
    raise TypeError(f"a {type(value).__name__} has no place in a checkpoint")


def _kept(value: Tensor, tensors: dict[str, Tensor], seen: dict[tuple[Any, ...], str]) -> str:
    """The name of a tensor in the file. 8-bit optimizers share a table between all parameters."""
    place = (value.data_ptr(), value.dtype, *value.shape, *value.stride())
    if place not in seen:
        kept = value.detach().cpu().contiguous()
        part = kept.untyped_storage().nbytes() > kept.numel() * kept.element_size()
        seen[place] = str(len(tensors))
        tensors[seen[place]] = kept.clone() if part else kept  # safetensors refuses shared memory
    return seen[place]


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    match kind:
        case "dict":
            return {key: _unpacked(v, tensors) for key, v in inside}
        case "list":
            return [_unpacked(v, tensors) for v in inside]
        case "tuple":
            return tuple(_unpacked(v, tensors) for v in inside)
        case "array":
            return tensors[inside[0]].numpy().astype(inside[1])
        case _:
            return tensors[inside]
