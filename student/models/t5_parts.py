"""
T5's norm and feed-forward layer in fewer passes over memory.

transformers composes the norm of six operations with twice as many in the backward pass, and hands
its float32 result to autocast, which casts it anew for each projection; it also casts the inner
states of a feed-forward layer to the float32 of a weight that autocast reads in half precision.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense, T5LayerNorm


class QuickT5LayerNorm(T5LayerNorm):
    """The root mean square norm; under autocast its result is cast once, not by every reader."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`hidden_states` (..., H), normed and scaled."""
        kind, dtype = hidden_states.device.type, hidden_states.dtype
        known = dtype == self.weight.dtype and dtype in (torch.float32, torch.float64)
        if not known or not torch.is_grad_enabled():
            found: Tensor = super().forward(hidden_states)  # type: ignore[no-untyped-call]
            return found
        cast = dtype == torch.float32 and torch.is_autocast_enabled(kind)
        half = torch.get_autocast_dtype(kind) if cast else None
        given = (hidden_states, self.weight, self.variance_epsilon, half)
        normed: Tensor = _Norm.apply(*given)  # type: ignore[no-untyped-call]
        return normed


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, epsilon: float, half: torch.dtype | None
    ) -> Tensor:
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        scale = length.square_().div_(states.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(states, weight, scale)
        normed: Tensor = (states * scale).mul_(weight)
        return normed if half is None else normed.to(half)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """
        y = w x r with r = (mean x^2 + e)^-1/2: dx = r (w g) - x r^3 mean(w g x), dw = sum g x r.
        """
        states, weight, scale = ctx.saved_tensors
        gradient = gradients[0].to(states.dtype)
        product = gradient * states
        mean = (product @ weight)[..., None] / states.shape[-1]
        to_weight = product.mul_(scale).flatten(0, -2).sum(0)
        to_states = (gradient * weight).mul_(scale)
        to_states.addcmul_(states, mean.mul_(scale.pow(3)), value=-1)
        return to_states, to_weight, None, None


class QuickT5FeedForward(T5DenseGatedActDense):
    """The gated layer of T5 1.1 and Flan-T5; autocast alone chooses its types."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., H) to (..., H)."""
        if not torch.is_autocast_enabled(hidden_states.device.type):
            plain: Tensor = super().forward(hidden_states)  # type: ignore[no-untyped-call]
            return plain
        gated = self.act(self.wi_0(hidden_states)) * self.wi_1(hidden_states)
        found: Tensor = self.wo(self.dropout(gated))
        return found
