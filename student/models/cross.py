"""
Cross-attention for a handful of queries, without keys and values of the encoder's states.

To score labels a decoder reads one or two tokens per text, and projecting all encoder states to
keys and values costs a sixth of the whole. By associativity q·(K x) = (Kᵀ q)·x, and the
mean of V x is V of the mean of x: the projections move to the few queries. The same function up to
rounding; a key's bias adds the same to all scores of a query and leaves the softmax as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

PARTS = {  # class: names of query, key, value, heads
    "T5Attention": ("q", "k", "v", "n_heads"),
    "BertCrossAttention": ("query", "key", "value", "num_attention_heads"),
}


@contextmanager
def states_as_keys(decoder: nn.Module) -> Iterator[None]:
    """
    Let the decoder's cross-attentions read encoder states directly while the context lasts.

    For passes without gradients, dropout and cache. Families not in PARTS, and projections that are
    no plain matrices (adapters, 4 bits), stay as they are.
    """
    changed = [part for part in decoder.modules() if _readable(part)]
    for part in changed:
        part.forward = partial(_forward, part, part.forward)
    try:
        yield
    finally:
        for part in changed:
            del part.forward


def _readable(part: nn.Module) -> bool:
    names = PARTS.get(type(part).__name__)
    return names is not None and all(type(getattr(part, n)) is nn.Linear for n in names[:3])


def _forward(part: Any, plain: Callable[..., Any], queries: Tensor, **given: Any) -> Any:
    """In place of the part's own forward, with the keywords transformers 5 calls it by."""
    t5 = type(part).__name__ == "T5Attention"
    states = given.get("key_value_states" if t5 else "encoder_hidden_states")
    if states is None:  # T5's self-attention is of the same class
        return plain(queries, **given)
    found = _attend(part, queries, states, given["mask" if t5 else "attention_mask"])
    return (part.o(found), given.get("position_bias"), None) if t5 else (found, None)


def _attend(part: Any, queries: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
    """Queries (B, Q, E), states (B, S, E), mask (B, 1, 1 or Q, S) to (B, Q, heads * D)."""
    query, key, value, count = (getattr(part, name) for name in PARTS[type(part).__name__])
    asked: Tensor = query(queries)
    batch, length, inner = asked.shape
    by_head = asked.reshape(batch * length, count, -1).transpose(0, 1)  # (heads, B Q, D)
    wanted = _rows(by_head @ key.weight.view(count, -1, states.shape[-1]), batch)
    scores = (wanted @ states.transpose(1, 2)).view(batch, count, length, -1) * part.scaling
    chances = torch.softmax(_masked(scores, mask), dim=-1).flatten(1, 2)
    seen = (chances @ states).view(batch, count, length, -1).transpose(0, 1)
    found = seen.flatten(1, 2) @ value.weight.view(count, -1, states.shape[-1]).transpose(1, 2)
    found = found.transpose(0, 1).reshape(batch, length, inner)
    whole: Tensor = found if value.bias is None else found + value.bias
    return whole


def _rows(by_head: Tensor, batch: int) -> Tensor:
    """(heads, B Q, E) to (B, heads Q, E)."""
    heads, _, width = by_head.shape
    return by_head.view(heads, batch, -1, width).transpose(0, 1).flatten(1, 2)


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
