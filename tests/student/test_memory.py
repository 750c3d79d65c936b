"""The peak is that of one training, not of the process's life."""

import sys
from pathlib import Path

import pytest
import torch

from common.errors import StudentError
from student.memory import (
    forget_peak_memory,
    freed_memory_kept,
    in_halves,
    is_out_of_memory,
    out_of_memory_sentence,
    peak_memory_bytes,
)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be reset on Linux alone")
def test_a_big_student_before_does_not_count_for_a_small_one_after() -> None:
    device = torch.device("cpu")
    block = torch.ones(100_000_000)
    before = peak_memory_bytes(device)
    del block

    forget_peak_memory()

    assert peak_memory_bytes(device) < before - 300_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="the resident set is read on Linux alone")
def test_freed_memory_is_kept_within_a_training_and_given_back_after_it() -> None:
    with freed_memory_kept():
        start = resident()
        block = torch.ones(50_000_000)
        filled = resident()
        del block
        kept = resident()
    after = resident()

    assert filled - start > 150_000_000
    assert filled - kept < 50_000_000
    assert filled - after > 150_000_000
    torch.ones(50_000_000)
    assert resident() < after + 50_000_000


def test_where_nothing_is_halved_the_sentence_says_why_and_what_to_lower() -> None:
    alone, shared = out_of_memory_sentence(1, 1), out_of_memory_sentence(8, 2)

    assert "device" not in alone
    assert "8 examples at a time on one of 2 devices" in shared
    assert "with several devices the micro-batch is not halved by itself" in shared
    assert all("lower training.micro_batch_size" in each for each in (alone, shared))


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: no room"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `gemm`"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error: BaseException, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory


def resident() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def test_what_finds_no_room_at_once_is_answered_in_halves_and_in_order() -> None:
    sizes: list[int] = []

    def work(asked: list[int]) -> list[int]:
        sizes.append(len(asked))
        if len(asked) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [10 * each for each in asked]

    assert in_halves(work, range(7)) == [0, 10, 20, 30, 40, 50, 60]
    assert sizes == [7, 3, 1, 2, 4, 2, 2]


def test_one_text_without_room_is_a_sentence_and_other_errors_stay_what_they_are() -> None:
    def full(_: object) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def broken(_: object) -> list[int]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(StudentError, match=r"single text.*max_input_tokens"):
        in_halves(full, [1, 2, 3])
    with pytest.raises(RuntimeError, match="mat1"):
        in_halves(broken, [1, 2, 3])
