"""Gradient norms per layer group, to see where a training goes wrong."""

import re

import torch
from torch import nn

_LAYER = re.compile(r"^(.*?(?:block|layers?|h)\.\d+)\.")
_ADAPTER = re.compile(r"^(?:model\.)+(?:base_model\.)?(?:model\.)?")


def group_norms(module: nn.Module) -> dict[str, float]:
    """L2 norm of the gradients of each layer; what is in no layer goes by its first names."""
    groups: dict[str, list[torch.Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            groups.setdefault(layer_group(name), []).append(parameter.grad)
    return {
        group: float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
        for group, gradients in groups.items()
    }


def layer_group(name: str) -> str:
    """'model.encoder.block.0.layer.1.wi.weight' -> 'encoder.block.0'."""
    short = _ADAPTER.sub("", name)
    layer = _LAYER.match(short)
    return layer.group(1) if layer else ".".join(short.split(".")[:2])
