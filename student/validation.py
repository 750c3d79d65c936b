"""How a student does on the validation pairs while it is trained: labels scored, not generated."""

from collections.abc import Sequence
from typing import Any

import torch

from common.records import TrainingPair
from student.calibration import UNCALIBRATED, Calibration, fit_temperature
from student.encoding import Encoder
from student.scoring import TorchScorer


def validation_metrics(
    module: Any,
    encoder: Encoder,
    pairs: Sequence[TrainingPair],
    device: torch.device,
    precision: str = "float32",
) -> dict[str, float]:
    """
    accuracy: share of pairs whose best-scored label is theirs; label_loss: mean cross-entropy of
    the distribution over the labels (student/trie.py), in nats per example. `precision`: that of
    the training.
    """
    scores, gold = _scored(module, encoder, pairs, device, precision)
    right = (scores.argmax(-1) == gold).float().mean()
    loss = -scores.gather(1, gold[:, None]).mean()
    return {"accuracy": float(right), "label_loss": float(loss)}


def validation_calibration(
    module: Any,
    encoder: Encoder,
    pairs: Sequence[TrainingPair],
    device: torch.device,
    precision: str = "float32",
) -> Calibration:
    """The temperature that makes the student's probabilities fit the validation pairs."""
    if not pairs:
        return UNCALIBRATED
    scores, gold = _scored(module, encoder, pairs, device, precision)
    return fit_temperature(scores, gold.tolist())


def _scored(
    module: Any,
    encoder: Encoder,
    pairs: Sequence[TrainingPair],
    device: torch.device,
    precision: str = "float32",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (pairs, labels) and the index of each pair's label."""
    scorer = TorchScorer(module, encoder.encode_text(""), device)
    contexts = encoder.text_contexts([pair.text for pair in pairs])
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        scores = scorer.scores(contexts, batch_size=32)
    return scores, torch.tensor([encoder.task.label_set.index(pair.label) for pair in pairs])
