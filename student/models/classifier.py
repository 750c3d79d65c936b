"""Encoder students with a classification head: labels only, one target per text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from student.batches import Batch, target_index
from student.encoding import EncodedExample
from student.models.scores import Scores, inside_adapters


class ClassifierStudent(nn.Module):
    """Wraps an AutoModelForSequenceClassification; `order[k]` is label k's place in its head."""

    def __init__(self, model: nn.Module, pad: int, order: Sequence[int]):
        super().__init__()
        self.model = model
        self.pad = pad
        self.order = list(order)

    @property
    def core(self) -> Any:
        """The transformers model itself, inside adapters or not."""
        return inside_adapters(self.model)

    def collate(self, examples: Sequence[EncodedExample], soft_share: float = 0.0) -> Batch:
        """Examples as CPU tensors."""
        contexts = [e.contexts[0] for e in examples]
        width = max(map(len, contexts))
        ids = torch.tensor([[*c, *[self.pad] * (width - len(c))] for c in contexts])
        lengths = torch.tensor([len(c) for c in contexts])
        index = target_index(examples, soft_share)
        gold = [[b.label == e.gold for b in e.branches].index(True) for e in examples]
        starts = [sum(len(e.branches) for e in examples[:i]) for i in range(len(examples))]
        return {
            "input_ids": ids,
            "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
            "gold": torch.tensor([e.gold for e in examples]),
            "credit": torch.tensor([s + g for s, g in zip(starts, gold, strict=True)]),
            **index,
        }

    def forward(self, **batch: Tensor) -> Scores:
        """Log-probabilities of the gold labels, and of all labels."""
        logits = self.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits[:, self.order]
        working = logits if logits.dtype == torch.float64 else logits.float()
        labels = torch.log_softmax(working, dim=-1)
        gold = labels.gather(1, batch["gold"][:, None])[:, 0]
        return Scores(gold, batch["credit"], labels)
