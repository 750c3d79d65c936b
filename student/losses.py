"""
The step-by-step loss (Hsieh et al. 2023, eq. 3) and its soft-label variant. Pure tensors.

L = L_label + lambda * L_rationale, where lambda = (1 - alpha) / alpha for the authors' alpha
(their loss is alpha * L_label + (1 - alpha) * L_rationale: the same up to scale). Each term is the
weighted mean over its own target tokens of the whole effective batch: a sum here, divided by the
batch's total weight, so that micro-batches add up to the whole batch exactly.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Totals:
    """Weighted numbers of target tokens of an effective batch: the two denominators."""

    label: float
    rationale: float


@dataclass(frozen=True, slots=True)
class Terms:
    """Weighted sums of negative log-probabilities, in nats; divide by Totals for means."""

    label: Tensor
    rationale: Tensor

    def loss(self, totals: Totals, rationale_weight: float) -> Tensor:
        """L_label + lambda * L_rationale. A term without any targets adds nothing."""
        loss = self.label / totals.label if totals.label > 0 else self.label * 0.0
        if rationale_weight > 0 and totals.rationale > 0:
            loss = loss + rationale_weight * self.rationale / totals.rationale
        return loss


def hard_terms(log_probabilities: Tensor, label_weight: Tensor, rationale_weight: Tensor) -> Terms:
    """
    Sums over target tokens, shape (N,) each. A token belongs to one term: its weight in the
    other is 0; tokens of labels that are only scored have 0 in both.
    """
    return Terms(
        label=-(log_probabilities * label_weight.to(log_probabilities)).sum(),
        rationale=-(log_probabilities * rationale_weight.to(log_probabilities)).sum(),
    )


def token_divergence_sum(
    student: Tensor, teacher: Tensor, weight: Tensor, temperature: float
) -> Tensor:
    """
    Weighted KL divergence of the student's tokens from the teacher's, in nats, times T^2.

    `student`, `teacher` (M, K + 1): log-probabilities of the teacher's likeliest K tokens at each
    of M places and, last, of all other tokens together; -inf in the teacher's where it has fewer.
    `weight` (M,). Both distributions are taken at `temperature` over these K + 1 outcomes, and T^2
    keeps the gradient's size (Hinton et al. 2015, section 2).
    """
    wanted = teacher.to(student)
    known = wanted > -torch.inf
    own = torch.log_softmax(student.masked_fill(~known, -torch.inf) / temperature, dim=-1)
    goal = torch.log_softmax(wanted / temperature, dim=-1)
    # an outcome the teacher rules out adds 0, not 0 * inf
    parts = torch.where(known, goal.exp() * (goal - own), 0.0)
    return (parts.sum(-1) * weight.to(parts)).sum() * temperature**2


def soft_label_sum(
    label_scores: Tensor, soft: Tensor, weight: Tensor, temperature: float
) -> Tensor:
    """
    Cross-entropy of the student's distribution over label strings against the teachers'.

    `label_scores` (B, K): log-probability of each label string; `soft` (B, K): the teachers'
    probabilities; `weight` (B,): example weight x soft share x the gold label's token count, which
    puts the soft term on the scale of the hard one (sum over a label's tokens). Both
    distributions are taken at `temperature`, and T^2 keeps the gradient's size (Hinton et al. 2015,
    section 2). Minus the teachers' entropy this is the KL divergence: the same gradient.
    """
    student = torch.log_softmax(label_scores / temperature, dim=-1)
    sharpened = soft.to(student).clamp_min(1e-12).log() / temperature
    teacher = torch.where(soft > 0, torch.softmax(sharpened, dim=-1), 0.0).to(student)
    teacher = teacher / teacher.sum(-1, keepdim=True)
    # A label string the student finds impossible and no teacher named must not make 0 * inf.
    cross_entropy = -torch.where(teacher > 0, teacher * student, 0.0).sum(-1)
    return (cross_entropy * weight.to(cross_entropy)).sum() * temperature**2
