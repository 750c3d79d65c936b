"""One optimizer step's parts: what is minimised, its denominators, one micro-batch's sums."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from student.batches import label_tokens
from student.encoding import EncodedExample
from student.losses import Terms, Totals, hard_terms, soft_label_sum, token_divergence_sum
from student.models.scores import Scores

Examples = Sequence[EncodedExample]


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised. `soft_share` 0: hard labels only; `token_share` 0: hard tokens only."""

    rationale_weight: float = 1.0
    soft_share: float = 0.0
    temperature: float = 1.0
    token_share: float = 0.0
    token_temperature: float = 1.0


@dataclass(slots=True)
class StepReport:
    """Figures of the latest step: losses in nats per target token."""

    loss: float = math.nan
    label_loss: float | None = math.nan
    rationale_loss: float | None = None
    copy_loss: float | None = None
    gradient_norm: float = math.nan
    group_norms: dict[str, float] | None = None
    tokens: int = 0
    seconds: float = 0.0


def batch_totals(examples: Examples) -> Totals:
    """The weighted numbers of target tokens of an effective batch."""
    rationale = sum(
        e.weight * sum(b.target_count for b in e.branches if b.label is None) for e in examples
    )
    return Totals(sum(e.weight * label_tokens(e) for e in examples), rationale)


def step_report(
    terms: Terms, totals: Totals, rationale_weight: float, *, copying: bool = False
) -> StepReport:
    """
    The loss and its terms as numbers; None for a term that no token is in. While `copying` the text
    stands in the rationale's place.
    """
    label = float(terms.label) / totals.label if totals.label else None
    written = float(terms.rationale) / totals.rationale if totals.rationale else None
    both = (None, written) if copying else (written, None)
    return StepReport(float(terms.loss(totals, rationale_weight)), label, *both)


def micro_batch_terms(
    module: Any, examples: Examples, objective: Objective, device: torch.device
) -> Terms:
    """Forward one micro-batch; weighted sums of both terms."""
    batch = module_of(module).collate(examples, objective.soft_share)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    scores = module(**batch)
    weights = batch["rationale_weight"][scores.branch]
    taught, weights = _taught(scores, batch, weights, objective)
    terms = hard_terms(scores.tokens, batch["label_weight"][scores.branch], weights)
    terms = Terms(terms.label, terms.rationale + taught)
    chosen = batch["soft_weight"] > 0
    if bool(chosen.any()):
        soft = soft_label_sum(
            scores.labels[chosen],
            batch["soft"][chosen],
            batch["soft_weight"][chosen],
            objective.temperature,
        )
        return Terms(terms.label + soft, terms.rationale)
    return terms


def _taught(
    scores: Scores, batch: dict[str, Tensor], weights: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    """
    The teacher's part of the rationale term, and `weights` (N,) of target tokens without its share.
    """
    share, places, likeliest = objective.token_share, scores.places, scores.likeliest
    if share == 0 or places is None or likeliest is None:
        return scores.tokens.new_zeros(()), weights
    own = weights[places]
    divergence = token_divergence_sum(
        likeliest, batch["taught_odds"], own * share, objective.token_temperature
    )
    return divergence, weights.index_put((places,), own * (1 - share))


def module_of(module: Any) -> Any:
    """The student module inside a DistributedDataParallel wrapper, or itself."""
    return module.module if hasattr(module, "module") else module


def random_state() -> tuple[Tensor, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return torch.get_rng_state(), cuda


def restore_random_state(state: tuple[Tensor, Any]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[1])
