"""
The output head, whose gradient goes straight to where it is kept.

A head is as wide as the vocabulary: 39 million weights in GPT-2. By way of autograd its gradient is
made whole in half precision, copied whole to float32 and added to the last; here it comes a few
thousand rows at a time, which stay in the processor's cache.
"""

from typing import Any

import torch
from torch import Tensor, nn

from student.models.embedding import adds_in_place

_ROWS = 2048  # of the table at once: 3 MB of GPT-2's in half precision


class OutputHead(nn.Linear):
    """nn.Linear without bias that adds to `weight.grad` in place, in one process."""

    _cast: tuple[tuple[int, int, torch.dtype], Tensor] | None = None

    def forward(self, states: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., H), in autocast's type where it is on."""
        if not adds_in_place(self.weight):
            return super().forward(states)
        logits: Tensor = _Head.apply(states, self.weight, self._table())  # type: ignore[no-untyped-call]
        return logits

    def train(self, mode: bool = True) -> "OutputHead":
        """As nn.Module's; the cast weights of a training's step do not outlive it."""
        self._cast = None
        return super().train(mode)

    def _table(self) -> Tensor:
        """The weights in the type that products are taken in; cast anew when they have changed."""
        weight = self.weight.detach()
        if not torch.is_autocast_enabled("cpu"):
            return weight
        wanted = torch.get_autocast_dtype("cpu")
        made_of = (self.weight._version, self.weight.data_ptr(), wanted)
        if self._cast is None or self._cast[0] != made_of:
            self._cast = (made_of, weight.to(wanted))
        return self._cast[1]


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, table: Tensor) -> Tensor:
        ctx.weight = weight
        ctx.save_for_backward(states, table)
        return nn.functional.linear(states.to(table.dtype), table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (states, table), (gradient,) = ctx.saved_tensors, gradients
        rows, seen = gradient.flatten(0, -2), states.flatten(0, -2).to(table.dtype)
        weight = ctx.weight
        first = weight.grad is None
        if first:
            weight.grad = torch.empty_like(weight)
        for part, kept in zip(
            torch.split(rows, _ROWS, dim=1), torch.split(weight.grad, _ROWS), strict=True
        ):
            found = part.T @ seen
            kept.copy_(found) if first else kept.add_(found)
        return (gradient @ table).to(states.dtype), None, None
