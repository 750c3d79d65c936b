"""Memory: what was used at most, and whether an error means there was too little."""

import contextlib
import ctypes
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from common.errors import StudentError

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

# malloc.h. To set any of them ends glibc's own adapting of the thresholds for the process's life,
# so they are left where that adapting ends: mmap(3) above 32 MB, trimming above twice that.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_LAST_MMAP_THRESHOLD, _DEFAULT_MMAP_MAX = 32 << 20, 65536


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a tensor found no room, on a GPU or in main memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    # CUBLAS_STATUS_ALLOC_FAILED and its kin: a CUDA library found no room for its own workspace.
    signs = ("DefaultCPUAllocator", "out of memory", "_STATUS_ALLOC_FAILED")
    return any(sign in text for sign in signs)


def out_of_memory_sentence(at_a_time: int, devices: int) -> str:
    """What to do where the micro-batch cannot be halved: at 1, or one of several devices."""
    if devices > 1:
        return (
            f"training: out of memory with {at_a_time} examples at a time on one of {devices} "
            "devices; with several devices the micro-batch is not halved by itself: lower "
            "training.micro_batch_size, or use gradient_checkpointing or quantization: nf4."
        )
    return (
        f"training: out of memory with {at_a_time} examples at a time; lower "
        "training.micro_batch_size, or use a smaller model, shorter "
        "student.max_input_tokens, gradient_checkpointing or quantization: nf4."
    )


def beside_the_examples(error: BaseException) -> StudentError:
    """What to do where not the examples of a step took too much: no micro-batch would help."""
    return StudentError(
        f"training: out of memory outside a step's examples ({str(error).splitlines()[0]}); AdamW "
        "keeps 8 bytes for every trained weight: expected a smaller student, `student.lora`, "
        "quantization: nf4, training.optimizer: paged_adamw_8bit, or a larger device."
    )


def in_halves(
    work: Callable[[list[Asked]], Iterable[Answer]], asked: Sequence[Asked]
) -> list[Answer]:
    """
    What `work` answers, in order; where memory runs out, one half after the other.

    Raises StudentError where there is no room for one alone.
    """
    try:
        return list(work(list(asked)))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(asked) == 1:
            raise StudentError(
                "out of memory with a single text; expected room for one beside the student: lower "
                "student.max_input_tokens, use a smaller student or --precision bf16, or free "
                "memory on the device."
            ) from error
    if torch.cuda.is_available():  # outside the handler, whose error keeps tensors alive
        torch.cuda.empty_cache()
    half = len(asked) // 2
    return [*in_halves(work, asked[:half]), *in_halves(work, asked[half:])]


def forget_peak_memory() -> None:
    """
    Start measuring anew: a worker trains one student after the other in one process.

    On Linux; elsewhere the peak stays that of the process's whole life.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Highest use since `forget_peak_memory`: the GPU's allocations, or the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parameter_counts(module: nn.Module) -> tuple[int, int]:
    """(all, trainable) parameters; a packed 4-bit weight counts as the two numbers it holds."""
    every, trainable = 0, 0
    for parameter in module.parameters():
        packed = type(parameter).__name__ == "Params4bit" and parameter.dtype == torch.uint8
        every += parameter.numel() * (2 if packed else 1)
        trainable += parameter.numel() if parameter.requires_grad else 0
    return every, trainable


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """
    Let glibc keep what is freed for the next allocation, until the context ends.

    By default it gives every block above 32 MB back to the system, which hands it out again as
    pages to be zeroed one by one: a zeroed tensor of 66 MB takes 19 ms, memory in use 1.4.
    Other C libraries stay as they are.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        library.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        library.mallopt(_MMAP_THRESHOLD, _LAST_MMAP_THRESHOLD)
        library.mallopt(_TRIM_THRESHOLD, 2 * _LAST_MMAP_THRESHOLD)
        library.malloc_trim(0)
