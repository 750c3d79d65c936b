"""
Eager attention with quick dropout: the library's function draws its noise number by number.

It stands under a name of its own in transformers' register and is meant for training on a CPU;
weights, masks and saved configs are those of eager attention.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from student.models.dropout import dropped

QUICK = "eager_quick_dropout"
ADDITIVE = ("eager", QUICK)  # these add a mask to the scores


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """
    transformers.models.gpt2.modeling_gpt2.eager_attention_forward, (B, heads, L, D) each, to
    (B, L, heads, D) and the weights.
    """
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(-1, -2)) * factor
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1).type(value.dtype)
    weights = dropped(weights, dropout, module.training)
    return torch.matmul(weights, value).transpose(1, 2), weights


AttentionInterface.register(QUICK, attend)
AttentionMaskInterface.register(QUICK, eager_mask)


def quicken_attention(model: Any) -> None:
    """Let an eager GPT-2 attend by the function above; other families stay as they are."""
    config = model.config
    eager = config.model_type == "gpt2" and config._attn_implementation == "eager"
    if eager and not config.reorder_and_upcast_attn and config.attn_pdrop:
        model.set_attn_implementation(QUICK)
