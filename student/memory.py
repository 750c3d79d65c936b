"""Memory: what was used at most, and whether an error means there was too little."""

import resource

import torch
from torch import nn


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a tensor found no room, on a GPU or in main memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return "DefaultCPUAllocator" in text or "out of memory" in text


def peak_memory_bytes(device: torch.device) -> int:
    """Highest use so far: the GPU's allocations, or this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parameter_counts(module: nn.Module) -> tuple[int, int]:
    """(all, trainable) parameters; a packed 4-bit weight counts as the two numbers it holds."""
    every, trainable = 0, 0
    for parameter in module.parameters():
        packed = type(parameter).__name__ == "Params4bit" and parameter.dtype == torch.uint8
        every += parameter.numel() * (2 if packed else 1)
        trainable += parameter.numel() if parameter.requires_grad else 0
    return every, trainable
