"""Who agrees with whom, who is right how often, at what cost, and what each teacher adds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config.teacher import Aggregation
from common.records import Interval, Record
from teacher.aggregate import chosen_labels, label_probabilities, learning_model
from teacher.dawid_skene import Reliability, learn_reliability
from teacher.survey import Survey, Tally
from teacher.vote_table import NOBODY, VoteTable


class PairAgreement(Record):
    """
    Two teachers on the texts that both judged: share of equal labels and Cohen's kappa.

    `kappa` None: one label only, and kappa is not defined.
    """

    first: str
    second: str
    texts: int
    agreed: float
    kappa: float | None


class TeacherFigures(Record):
    """
    One teacher. `texts` it was asked, `answers` and `unanswered` samples of it.

    `accuracy` against gold over `judged` texts, also apart for texts where it was sure and where
    not; `confusion` there (gold by said). `learned_accuracy`, `learned_confusion`: estimates
    without looking at that gold. `usd` is the price of its answers, `usd_paid` what this
    job paid, the rest was cached. `accuracy_without`: of the aggregate had it never been asked,
    texts without any label (`unlabelled_without`) counted as wrong.
    """

    teacher: str
    models: list[str]
    texts: int
    answers: int
    unanswered: dict[str, int]
    cached: int
    input_tokens: int
    output_tokens: int
    usd: float
    usd_paid: float
    sure_share: float | None = None
    judged: int = 0
    accuracy: Interval | None = None
    accuracy_sure: Interval | None = None
    accuracy_unsure: Interval | None = None
    confusion: list[list[int]] | None = None
    learned_accuracy: float | None = None
    learned_confusion: list[list[float]] | None = None
    accuracy_without: float | None = None
    unlabelled_without: int | None = None


class TeachersReport(Record):
    """
    All teachers of a job. `judged` gold texts that nothing was learned from, out of an even
    sample of `sampled` texts; `probe_rows` gold texts that were learned from instead.
    """

    labels: list[str]
    kind: str
    texts: int
    sampled: int
    judged: int
    probe_rows: int
    accuracy: Interval | None
    teachers: list[TeacherFigures]
    pairs: list[PairAgreement]


def judge_teachers(
    survey: Survey, aggregation: Aggregation, reliability: Reliability | None
) -> TeachersReport:
    """The figures of a finished job."""
    table = survey.table()
    judged = table.rows(table.judged)
    right = _aggregate_hits(judged, aggregation, reliability)
    return TeachersReport(
        labels=list(table.labels),
        kind=aggregation.kind,
        texts=survey.texts,
        sampled=len(table),
        judged=len(judged),
        probe_rows=reliability.probe_rows if reliability else 0,
        accuracy=wilson(int(right.sum()), len(right)),
        teachers=[
            _figures(name, survey.tallies[name], table, aggregation, reliability)
            for name in survey.teachers
        ],
        pairs=pair_agreements(table),
    )


def pair_agreements(table: VoteTable) -> list[PairAgreement]:
    """Every pair of teachers that judged a text in common."""
    found = []
    for i, first in enumerate(table.teachers):
        for j in range(i + 1, len(table.teachers)):
            both = (table.said[:, i] != NOBODY) & (table.said[:, j] != NOBODY)
            if both.any():
                one, other = table.said[both, i], table.said[both, j]
                found.append(
                    PairAgreement(
                        first=first,
                        second=table.teachers[j],
                        texts=int(both.sum()),
                        agreed=float((one == other).mean()),
                        kappa=_kappa(one, other),
                    )
                )
    return found


def wilson(right: int, texts: int, level: float = 0.95) -> Interval | None:
    """A share with its Wilson interval; None of no texts."""
    if texts == 0:
        return None
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(right, texts, alpha=1 - level, method="wilson")
    return Interval(value=right / texts, low=float(low), high=float(high), level=level)


def _kappa(one: NDArray[np.int16], other: NDArray[np.int16]) -> float | None:
    from sklearn.metrics import cohen_kappa_score

    if len(np.union1d(one, other)) < 2:
        return None
    return float(cohen_kappa_score(one, other))


def _figures(
    name: str,
    tally: Tally,
    table: VoteTable,
    aggregation: Aggregation,
    reliability: Reliability | None,
) -> TeacherFigures:
    own = table.teachers.index(name)
    spoke = table.said[:, own] != NOBODY
    return TeacherFigures(
        teacher=name,
        models=sorted(tally.models),
        texts=tally.texts,
        answers=tally.answers,
        unanswered=dict(tally.unanswered.most_common()),
        cached=tally.cached,
        input_tokens=tally.input_tokens,
        output_tokens=tally.output_tokens,
        usd=tally.usd,
        usd_paid=tally.usd_paid,
        sure_share=float(table.sure[spoke, own].mean()) if spoke.any() else None,
        **_against_gold(table.rows(table.judged & spoke), own),
        **_learned(name, reliability),
        **_without(name, table, aggregation),
    )


def _against_gold(judged: VoteTable, own: int) -> Mapping[str, Any]:
    if not len(judged):
        return {}
    said, sure, right = judged.said[:, own], judged.sure[:, own], judged.said[:, own] == judged.gold
    labels = len(judged.labels)
    confusion = np.zeros((labels, labels), int)
    np.add.at(confusion, (judged.gold, said), 1)
    return {
        "judged": len(judged),
        "accuracy": wilson(int(right.sum()), len(right)),
        "accuracy_sure": wilson(int(right[sure].sum()), int(sure.sum())),
        "accuracy_unsure": wilson(int(right[~sure].sum()), int((~sure).sum())),
        "confusion": confusion.tolist(),
    }


def _learned(name: str, reliability: Reliability | None) -> Mapping[str, Any]:
    if reliability is None:
        return {}
    return {
        "learned_accuracy": reliability.accuracy[name],
        "learned_confusion": reliability.confusion[reliability.teachers.index(name)].tolist(),
    }


def _without(name: str, table: VoteTable, aggregation: Aggregation) -> Mapping[str, Any]:
    """Learned anew without the teacher: what it taught of the others goes as well."""
    if len(table.teachers) < 2 or not table.judged.any():
        return {}
    rest = table.without(name)
    reliability = learn_reliability(rest, learning_model(aggregation))
    judged = rest.rows(rest.judged)
    right = _aggregate_hits(judged, aggregation, reliability)
    silent = (judged.said == NOBODY).all(axis=1)
    return {
        "accuracy_without": float(right.mean()),
        "unlabelled_without": int(silent.sum()),
    }


def _aggregate_hits(
    judged: VoteTable, aggregation: Aggregation, reliability: Reliability | None
) -> NDArray[np.bool_]:
    """Where the aggregate is right; a text that nobody answered is not."""
    odds = label_probabilities(judged, aggregation.kind, reliability)
    spoke = (judged.said != NOBODY).any(axis=1)
    return np.asarray(spoke & (chosen_labels(judged, odds) == judged.gold))
