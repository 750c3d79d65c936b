"""How a student does on the validation pairs while it is trained: labels scored, not generated."""

from collections.abc import Sequence
from typing import Any

import torch

from common.records import TrainingPair
from student.encoding import EncodedExample, Encoder


@torch.no_grad()
def label_scores(
    module: Any, examples: Sequence[EncodedExample], device: torch.device, batch_size: int = 32
) -> torch.Tensor:
    """(examples, labels): log-probability of every label string, in the order given."""
    order = sorted(range(len(examples)), key=lambda i: examples[i].length)
    rows: dict[int, torch.Tensor] = {}
    for begin in range(0, len(order), batch_size):
        part = order[begin : begin + batch_size]
        batch = module.collate([examples[i] for i in part])
        scores = module(**{name: tensor.to(device) for name, tensor in batch.items()})
        rows.update(zip(part, scores.labels.float().cpu(), strict=True))
    return torch.stack([rows[i] for i in range(len(examples))])


def validation_metrics(
    module: Any, encoder: Encoder, pairs: Sequence[TrainingPair], device: torch.device
) -> dict[str, float]:
    """
    accuracy: share of pairs whose best-scored label is theirs; label_loss: mean cross-entropy of
    the distribution over label strings, in nats per example.
    """
    examples = [encoder.encode_text(pair.text) for pair in pairs]
    scores = torch.log_softmax(label_scores(module, examples, device), dim=-1)
    gold = torch.tensor([encoder.task.label_set.index(pair.label) for pair in pairs])
    right = (scores.argmax(-1) == gold).float().mean()
    loss = -scores.gather(1, gold[:, None]).mean()
    return {"accuracy": float(right), "label_loss": float(loss)}
