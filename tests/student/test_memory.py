"""The peak is that of one training, not of the process's life."""

import sys

import pytest
import torch

from student.memory import forget_peak_memory, peak_memory_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be reset on Linux alone")
def test_a_big_student_before_does_not_count_for_a_small_one_after() -> None:
    device = torch.device("cpu")
    block = torch.ones(100_000_000)
    before = peak_memory_bytes(device)
    del block

    forget_peak_memory()

    assert peak_memory_bytes(device) < before - 300_000_000
