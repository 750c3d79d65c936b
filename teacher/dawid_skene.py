"""
How reliable each teacher is, learned from agreement alone or with a few gold rows.

The estimators are crowd-kit's: Dawid & Skene 1979 (a confusion matrix each) and its one-coin form
(Zhang et al. 2016; an accuracy each). What we add: a teacher counts as two voters, one for rows
where it is sure and one for rows where it is not, because its samples are no independent
witnesses but their agreement says how far to trust it; and estimates are smoothed, so that a
voter seen on ten rows is never taken for infallible.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from teacher.vote_table import NOBODY, VoteTable

Model = Literal["one_coin", "dawid_skene"]
Floats = NDArray[np.float64]

# Rows that a prior belief is worth. Small against the rows of a job, and enough to keep one of
# three unsure answers of a probe from becoming an accuracy of 0.33.
PRIOR_ROWS = 8.0


@dataclass(frozen=True)
class Reliability:
    """
    What was learned of the teachers.

    `emissions` [teachers, 2, labels, labels]: the probability of what a teacher says (last axis)
    given the true label (third axis), where it is unsure (0) or sure (1). `priors` [labels].
    `accuracy` and `confusion` [teachers, labels, labels] (true by said, expected counts) are
    estimates over the rows learned from; `probe_rows` of these had gold.
    """

    teachers: tuple[str, ...]
    emissions: Floats
    priors: Floats
    accuracy: dict[str, float]
    confusion: Floats
    rows: int
    probe_rows: int

    def posteriors(self, table: VoteTable) -> Floats:
        """Bayes: probability of every label [rows, labels], the teachers taken as independent."""
        logs = np.tile(np.log(self.priors), (len(table), 1))
        for teacher in range(len(self.teachers)):
            spoke = table.said[:, teacher] != NOBODY
            state = table.sure[spoke, teacher].astype(int)
            logs[spoke] += np.log(self.emissions[teacher, state, :, table.said[spoke, teacher]])
        logs -= logs.max(axis=1, keepdims=True)
        odds = np.exp(logs)
        return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float64)


def learn_reliability(table: VoteTable, model: Model) -> Reliability | None:
    """
    Fit the model to a table; None where no two teachers ever judged the same row.

    Gold of the table's `probe` rows is used, other gold never.
    """
    together = (table.said != NOBODY).sum(axis=1) > 1
    if not together.any():
        return None
    seen = table.rows(together | (table.probe & (table.said != NOBODY).any(axis=1)))
    beliefs = _fit(seen, model)
    right = _expected_counts(seen, beliefs)
    accuracies = _accuracies(right)
    if model == "one_coin":
        accuracies = _corrected_by_gold(seen, accuracies)
    emissions = _one_coin(accuracies, len(table.labels))
    priors = np.full(len(table.labels), 1 / len(table.labels))
    if model == "dawid_skene":
        emissions = _normalised(right + PRIOR_ROWS * emissions)
        priors = (beliefs.sum(axis=0) + 1) / (len(beliefs) + len(table.labels))
    confusion = right.sum(axis=1)
    return Reliability(
        teachers=table.teachers,
        emissions=emissions,
        priors=priors,
        accuracy={
            name: float(np.trace(confusion[i]) / max(confusion[i].sum(), 1e-9))
            for i, name in enumerate(table.teachers)
        },
        confusion=confusion,
        rows=len(seen),
        probe_rows=int((seen.probe & (seen.gold != NOBODY)).sum()),
    )


def _fit(table: VoteTable, model: Model) -> Floats:
    """The label probabilities [rows, labels] that crowd-kit converges to; gold where it may be."""
    import pandas as pd
    from crowdkit.aggregation import DawidSkene, OneCoinDawidSkene

    rows, teachers = np.nonzero(table.said != NOBODY)
    said = table.said[rows, teachers]
    voters = 2 * teachers + table.sure[rows, teachers]
    votes = pd.DataFrame({"task": rows, "worker": voters, "label": said.astype(np.int64)})
    known = _gold_of_probe(table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # crowd-kit 1.4 uses what pandas 3.1 deprecates
        if model == "dawid_skene":
            # crowd-kit cannot take a gold label that nobody ever gave
            usable = np.isin(known, np.unique(said))
            gold = pd.Series(known[usable], index=np.flatnonzero(usable), dtype=np.int64)
            fitted: Any = DawidSkene().fit(votes, true_labels=gold if len(gold) else None)
        else:
            fitted = OneCoinDawidSkene().fit(votes)
    found = fitted.probas_.reindex(
        index=range(len(table)), columns=range(len(table.labels)), fill_value=0.0
    )
    beliefs: Floats = found.to_numpy(np.float64, copy=True)
    golden = np.flatnonzero(known != NOBODY)
    beliefs[golden] = 0.0
    beliefs[golden, known[golden]] = 1.0
    return beliefs


def _gold_of_probe(table: VoteTable) -> NDArray[np.int16]:
    return np.where(table.probe, table.gold, np.int16(NOBODY))


def _expected_counts(table: VoteTable, beliefs: Floats) -> Floats:
    """[teachers, unsure or sure, true label, said label], summed over rows."""
    labels = len(table.labels)
    by_said = np.zeros((len(table.teachers), 2, labels, labels))
    rows, teachers = np.nonzero(table.said != NOBODY)
    state = table.sure[rows, teachers].astype(int)
    np.add.at(by_said, (teachers, state, table.said[rows, teachers]), beliefs[rows])
    return by_said.swapaxes(2, 3)


def _accuracies(counts: Floats) -> Floats:
    """[teachers, 2]; add-one smoothed, one half for a voter that was never heard."""
    right = np.trace(counts, axis1=2, axis2=3)
    return np.asarray((right + 1) / (counts.sum(axis=(2, 3)) + 2), dtype=np.float64)


def _corrected_by_gold(table: VoteTable, learned: Floats) -> Floats:
    """Accuracies on the probe's gold, drawn towards the learned ones as by PRIOR_ROWS rows."""
    gold = _gold_of_probe(table)[:, None]
    spoke = (table.said != NOBODY) & (gold != NOBODY)
    corrected = learned.copy()
    for state in (0, 1):
        here = spoke & (table.sure == bool(state))
        right = (here & (table.said == gold)).sum(axis=0)
        corrected[:, state] = (right + PRIOR_ROWS * learned[:, state]) / (
            here.sum(axis=0) + PRIOR_ROWS
        )
    return corrected


def _one_coin(accuracies: Floats, labels: int) -> Floats:
    """Emissions of voters that err towards every other label alike."""
    wrong = (1 - accuracies)[..., None, None] / (labels - 1)
    same = np.eye(labels, dtype=bool)
    return np.where(same, accuracies[..., None, None], wrong)


def _normalised(counts: Floats) -> Floats:
    return np.asarray(counts / counts.sum(axis=-1, keepdims=True), dtype=np.float64)
