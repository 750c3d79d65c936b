"""
Embeddings whose gradient touches the rows that were read and no others.

The gradient of nn.Embedding is as large as its table (66 MB in Flan-T5-small, 154 MB in GPT-2) and
zero nearly everywhere; encoder, decoder and a tied head make three of them per micro-batch, to be
zeroed, added and thrown away.
"""

from typing import Any

import torch
from torch import Tensor, nn


def adds_in_place(weight: Tensor) -> bool:
    """Whether a gradient may be added to `weight.grad` without passing through autograd."""
    return (
        torch.is_grad_enabled()
        and weight.requires_grad
        and weight.is_leaf
        and weight.device.type == "cpu"  # atomic additions on a GPU come in any order
        # Several processes exchange gradients as autograd delivers them.
        and not (torch.distributed.is_available() and torch.distributed.is_initialized())
    )


class RowEmbedding(nn.Embedding):
    """nn.Embedding that adds to `weight.grad` in place, in one process."""

    def forward(self, ids: Tensor) -> Tensor:
        """The rows `ids` (...) of the table: (..., width)."""
        if not adds_in_place(self.weight) or self.max_norm is not None or self.scale_grad_by_freq:
            return super().forward(ids)
        rows: Tensor = _Rows.apply(self.weight, ids, self.padding_idx)  # type: ignore[no-untyped-call]
        return rows


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.weight, ctx.padding = weight, padding
        ctx.save_for_backward(ids)
        return nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        (ids,), (gradient,) = ctx.saved_tensors, gradients
        if ctx.padding is not None:  # a padding row is never learnt
            gradient = gradient.masked_fill((ids == ctx.padding)[..., None], 0.0)
        weight = ctx.weight
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ids.flatten(), gradient.flatten(0, -2).to(weight.dtype))
        return None, None, None
