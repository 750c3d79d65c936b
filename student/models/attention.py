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
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """
    The eager_attention_forward of transformers' GPT-2, BERT and T5, (B, heads, L, D) each, to
    (B, L, heads, D) and the weights.
    """
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(-1, -2)) * factor
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1).type(value.dtype)
    weights = dropped(weights, dropout, module.training)
    return torch.matmul(weights, value).transpose(1, 2), weights


AttentionInterface.register(QUICK, attend)
AttentionMaskInterface.register(QUICK, eager_mask)


# Families whose eager attention is the one above, each with its name for the dropout in it.
DROPOUT = {
    "gpt2": "attn_pdrop",
    "bert": "attention_probs_dropout_prob",
    "t5": "dropout_rate",
    "mt5": "dropout_rate",
}


def quicken_attention(model: Any) -> None:
    """Let an eager model of these families attend by the function above; others stay as is."""
    config = model.config
    rate = getattr(config, DROPOUT.get(config.model_type, ""), 0.0)
    eager = config._attn_implementation == "eager"
    if eager and rate and not getattr(config, "reorder_and_upcast_attn", False):
        # In an encoder-decoder made of two models, layers hold other copies of their config.
        for part in model.modules():
            own: Any = getattr(part, "config", None)
            if getattr(own, "_attn_implementation", None) == "eager":
                own._attn_implementation = QUICK
