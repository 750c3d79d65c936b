"""Soft labels for pairs whose teacher gave no probabilities but said how sure it is."""

from collections.abc import Sequence

from common.config.training import SoftLabels
from common.records import TrainingPair


def soften(
    pairs: Sequence[TrainingPair], soft: SoftLabels | None, labels: Sequence[str]
) -> Sequence[TrainingPair]:
    """
    Pairs in the same order; with `soft.from_confidence`, stated confidences become probabilities.

    The teacher's confidence c stands for its label and (1 - c) / (K - 1) for each other one: label
    smoothing (Szegedy et al. 2016, section 7) with an amount per example. A confidence below
    1 / K would turn the label round and counts as 1 / K. Pairs with probabilities keep them; pairs
    without a stated confidence (gold) keep their hard label.
    """
    if soft is None or not soft.from_confidence:
        return pairs
    return [_softened(pair, labels) for pair in pairs]


def _softened(pair: TrainingPair, labels: Sequence[str]) -> TrainingPair:
    if pair.probabilities is not None or pair.confidence is None or len(labels) < 2:
        return pair
    sure = max(pair.confidence, 1 / len(labels))
    other = (1 - sure) / (len(labels) - 1)
    chances = {name: sure if name == pair.label else other for name in labels}
    return pair.model_copy(update={"probabilities": chances})
