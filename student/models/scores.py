"""What a student answers to a batch, whatever its architecture."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from student.encoding import IGNORE
from student.models.token_logs import token_logs, working


class Scores(NamedTuple):
    """
    `tokens` (N,): log-probability of each target token, rows first; `branch` (N,): the branch each
    belongs to; `labels` (B, K): log-probability of each label string, -inf where not scored.
    Where a teacher's token odds are learnt: `places` (M,), which target tokens they speak of, and
    `likeliest` (M, K + 1), log-probabilities of the teacher's likeliest tokens and of all others.
    """

    tokens: Tensor
    branch: Tensor
    labels: Tensor
    places: Tensor | None = None
    likeliest: Tensor | None = None


def inside_adapters(model: Any) -> Any:
    """The transformers model itself, inside a PeftModel or not."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def name_in_base(name: str) -> str:
    """What a parameter is called in the model without its adapters."""
    return name.replace("base_model.model.", "").replace("modules_to_save.default.", "")


@contextmanager
def only_at(head: nn.Module, chosen: Tensor) -> Iterator[None]:
    """
    Let an output head see only the hidden states at `chosen` (rows, length), a bool mask.

    The head maps H to the vocabulary, 16 million weights in Flan-T5-small, and most positions of a
    packed row carry no target. The model then returns logits of shape (chosen.sum(), V).
    """

    def choose(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][chosen], *inputs[1:])

    handle = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def target_scores(logits: Tensor, batch: Mapping[str, Tensor]) -> Scores:
    """Scores from the logits (N, V) at the positions that carry a target."""
    chosen, label_scores_index = batch["targets"] != IGNORE, batch["label_scores_index"]
    wanted, branch = batch["targets"][chosen], batch["credit"][chosen]
    tokens = token_logs(logits, wanted)
    branches = int(label_scores_index.max()) + 1
    size = max(branches, int(branch.max()) + 1 if branch.numel() else 0)
    sums = tokens.new_zeros(size).index_add(0, branch, tokens)
    labels = torch.where(
        label_scores_index >= 0,
        sums[label_scores_index.clamp_min(0)],
        torch.full((), -torch.inf, dtype=sums.dtype, device=sums.device),
    )
    if "taught" not in batch:
        return Scores(tokens, branch, labels)
    places = batch["taught"][chosen].nonzero()[:, 0]
    taught = _likeliest(working(logits[places]), batch["taught_ids"])
    return Scores(tokens, branch, labels, places, taught)


def _likeliest(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of the tokens `ids` (M, K) and, last, of all others: (M, K + 1)."""
    whole = logits.logsumexp(-1, keepdim=True)
    rest = logits.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, ids), rest], dim=-1) - whole
