"""Nested state survives its file bit for bit, and nothing in the file is a pickle."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from student.state_file import read_state, write_state


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    table = torch.randn(3, 2)
    state = {
        "groups": [
            {"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1], "fused": True, "foreach": None}
        ],
        "state": {
            0: {"step": torch.tensor(3.0), "average": table.T, "table": table},
            1: {
                "average": torch.randn(2, dtype=torch.bfloat16),
                "table": table,
                "codes": torch.arange(4).byte(),
            },
        },
        "none": {},
        "limit": math.inf,
        "empty": torch.zeros(0, 4),
    }

    write_state(state, tmp_path / "s.safetensors")
    found = read_state(tmp_path / "s.safetensors")

    assert found["groups"] == state["groups"]
    assert type(found["groups"][0]["betas"]) is tuple
    assert list(found["state"]) == [0, 1]
    assert found["limit"] == math.inf
    assert found["none"] == {}
    assert found["empty"].shape == (0, 4)
    for number, entries in found["state"].items():
        for name, tensor in entries.items():
            wanted = state["state"][number][name]  # type: ignore[index]
            assert tensor.dtype == wanted.dtype
            assert torch.equal(tensor, wanted)


def test_views_of_one_tensor_come_back_as_what_they_are(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    rows = whole.view(3, 4)
    state = {"first": rows[0], "last": rows[2], "turned": rows[:2].T}

    write_state(state, tmp_path / "s.safetensors")
    found = read_state(tmp_path / "s.safetensors")

    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_random_states_come_back(tmp_path: Path) -> None:
    random.gauss(0, 1)  # leaves a number for the next call
    np.random.standard_normal()  # so does numpy's
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    write_state(state, tmp_path / "r.safetensors")
    wanted = random.gauss(0, 1), np.random.standard_normal(), torch.rand(3)

    found = read_state(tmp_path / "r.safetensors")
    random.setstate(found["python"])
    np.random.set_state(found["numpy"])
    torch.set_rng_state(found["torch"])

    assert (random.gauss(0, 1), np.random.standard_normal()) == wanted[:2]
    assert torch.equal(torch.rand(3), wanted[2])


def test_what_has_no_plain_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a Random has no place in a checkpoint"):
        write_state({"draw": random.Random(1)}, tmp_path / "s.safetensors")


def test_an_eight_bit_optimizer_goes_on_where_it_stopped(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.optim import AdamW8bit  # type: ignore[attr-defined]

    def made() -> tuple[torch.nn.Parameter, Any]:
        torch.manual_seed(1)
        weight = torch.nn.Parameter(torch.randn(80, 80))
        optimizer: Any = AdamW8bit
        return weight, optimizer([weight], lr=0.01, min_8bit_size=64)

    def step(weight: torch.nn.Parameter, optimizer: Any) -> None:
        weight.grad = torch.sin(weight.detach() * 3)
        optimizer.step()

    weight, optimizer = made()
    try:
        step(weight, optimizer)
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"bitsandbytes has no 8-bit optimizer for this device ({type(error).__name__})")
    write_state({"o": optimizer.state_dict(), "w": weight.detach()}, tmp_path / "o.safetensors")
    step(weight, optimizer)

    other, resumed = made()
    stored = read_state(tmp_path / "o.safetensors")
    with torch.no_grad():
        other.copy_(stored["w"])
    resumed.load_state_dict(stored["o"])
    step(other, resumed)

    assert torch.equal(weight, other)
