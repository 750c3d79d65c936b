"""Several answers to one text become one label with probabilities, and nobody's word is lost."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.config.teacher import Aggregation
from common.errors import ConfigError
from common.records import Reason, Record, TokenOdds, Unanswered
from common.task import TaskDefinition
from teacher.dawid_skene import Floats, Model, Reliability, learn_reliability
from teacher.survey import Survey
from teacher.vote_table import NOBODY, Row, VoteTable, vote_table
from teacher.votes import AnyAnswer, Ballot, Opinion, ballots

NOT_ASKED = "not_asked"
_BLOCK = 1024  # rows decided at once: enough for numpy, some hundred kilobytes


class Aggregated(Record):
    """
    What the teachers say together of one text.

    `probabilities` over the task's labels, None where one teacher gave one answer without
    logprobs. `confidence`: the probability of `label`, else what the teacher stated.
    `rationale` is by `rationale_teacher`, who chose the same label. `said`: the labels of each
    teacher's samples in order, None where a sample could not be used.
    """

    example_id: str
    label: str
    probabilities: dict[str, float] | None = None
    confidence: float | None = None
    rationale: str | None = None
    rationale_teacher: str | None = None
    rationale_odds: list[TokenOdds] | None = None
    said: dict[str, list[str | None]] = Field(default_factory=dict)


class Dropped(Record):
    """A text without a label to train on: a value of `records.Reason`, or one of this module."""

    example_id: str
    reason: str
    said: dict[str, list[str | None]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Aggregator:
    """How ballots become labels; `reliability` None where it was not or could not be learned."""

    labels: tuple[str, ...]
    teachers: tuple[str, ...]
    config: Aggregation
    reliability: Reliability | None = None
    min_confidence: float | None = None

    def decide(self, votes: Iterable[Ballot]) -> Iterator[Aggregated | Dropped]:
        """One result a ballot, in order; memory holds one block of rows."""
        stream = iter(votes)
        while block := list(islice(stream, _BLOCK)):
            opinions = [
                ballot.opinions(self.teachers, self.labels, self.config.sure_above)
                for ballot in block
            ]
            table = vote_table([Row(o) for o in opinions], self.teachers, self.labels)
            odds = label_probabilities(table, self.config.kind, self.reliability)
            winners = chosen_labels(table, odds)
            for ballot, own, row, winner in zip(block, opinions, odds, winners, strict=True):
                yield self._result(ballot, own, row, int(winner))

    def _result(
        self, ballot: Ballot, opinions: Mapping[str, Opinion], odds: Floats, winner: int
    ) -> Aggregated | Dropped:
        if not opinions:
            return Dropped(example_id=ballot.example_id, reason=_reason(ballot), said=ballot.said())
        label = self.labels[winner]
        probabilities, confidence = self._certainty(opinions, odds, label)
        low = self.min_confidence
        if low is not None and confidence is not None and confidence < low:
            return Dropped(
                example_id=ballot.example_id,
                reason=Reason.LOW_CONFIDENCE.value,
                said=ballot.said(),
            )
        reasons = self._rationale(opinions, label)
        return Aggregated(
            example_id=ballot.example_id,
            label=label,
            probabilities=probabilities,
            confidence=confidence,
            rationale=reasons.rationale if reasons else None,
            rationale_teacher=reasons.teacher if reasons else None,
            rationale_odds=reasons.rationale_odds if reasons else None,
            said=ballot.said(),
        )

    def _certainty(
        self, opinions: Mapping[str, Opinion], odds: Floats, label: str
    ) -> tuple[dict[str, float] | None, float | None]:
        last = list(opinions.values())[-1]
        if self.config.kind in ("single", "cascade") and last.samples == 1:
            given = last.probabilities
            return given, given.get(label) if given else last.confidence
        together = {name: float(p) for name, p in zip(self.labels, odds, strict=True)}
        return together, min(1.0, together[label])

    def _rationale(self, opinions: Mapping[str, Opinion], label: str) -> Opinion | None:
        for teacher in self.by_reliability:
            opinion = opinions.get(teacher)
            if opinion and opinion.label == label and opinion.rationale:
                return opinion
        return None

    @property
    def by_reliability(self) -> list[str]:
        """
        The teachers, best first, as far as known: by learned accuracy, else as configured.

        A cascade is configured from the cheapest to the best.
        """
        if self.config.kind == "cascade":
            return list(reversed(self.teachers))
        learned = self.reliability.accuracy if self.reliability else {}
        return sorted(self.teachers, key=lambda name: -learned.get(name, 0.0))


def aggregate(
    answers: Iterable[AnyAnswer],
    task: TaskDefinition,
    config: Aggregation,
    teachers: Sequence[str],
    gold: Mapping[str, str] | None = None,
    min_confidence: float | None = None,
) -> Iterator[Aggregated | Dropped]:
    """
    One result for each text, in order.

    `answers` to one text stand together (`votes.in_row_order`), and with several teachers they
    are gone through twice: give a list or something else that can be iterated anew. `teachers`
    in the order of the configuration; `gold` is of the probe, that is of training data.
    Raises ConfigError for a kind that needs more teachers than there are.
    """
    check_kind(config, teachers)
    if len(teachers) > 1 and iter(answers) is answers:
        raise TypeError("answers are read twice: give a list, not an iterator")
    aggregator = Aggregator(
        tuple(task.label_names),
        tuple(teachers),
        config,
        _learned(answers, task, config, teachers, gold or {}) if len(teachers) > 1 else None,
        min_confidence,
    )
    yield from aggregator.decide(ballots(answers))


def check_kind(config: Aggregation, teachers: Sequence[str]) -> None:
    """Raises ConfigError where the kind of aggregation and the number of teachers do not fit."""
    if len(set(teachers)) < len(teachers):
        raise ConfigError(
            f"teachers: {', '.join(teachers)} do not all differ; give each its own `name`."
        )
    if config.kind == "single" and len(teachers) > 1:
        raise ConfigError(
            f"aggregation.kind: 'single' takes one teacher, got {', '.join(teachers)}; "
            "use vote, weighted, dawid_skene or cascade."
        )
    if config.kind in ("weighted", "dawid_skene", "cascade") and len(teachers) < 2:
        raise ConfigError(
            f"aggregation.kind: '{config.kind}' compares several teachers, got one; use single."
        )


def learning_model(config: Aggregation) -> Model:
    """What is learned of the teachers: confusion matrices where they decide, else accuracies."""
    return "dawid_skene" if config.kind == "dawid_skene" else "one_coin"


def label_probabilities(table: VoteTable, kind: str, reliability: Reliability | None) -> Floats:
    """
    Probabilities [rows, labels] by the kind of aggregation; zeros where nobody spoke.

    Without a learned reliability (no row was judged by two teachers) weighing is voting.
    """
    spoke = table.said != NOBODY
    if kind in ("weighted", "dawid_skene") and reliability is not None:
        return np.where(spoke.any(axis=1)[:, None], reliability.posteriors(table), 0.0)
    if kind == "cascade":
        width = spoke.shape[1]
        last = width - 1 - np.argmax(spoke[:, ::-1], axis=1)
        return np.asarray(table.shares[np.arange(len(table)), last], dtype=np.float64)
    votes = np.maximum(spoke.sum(axis=1), 1)[:, None]
    return np.asarray(table.shares.sum(axis=1, dtype=np.float64) / votes, dtype=np.float64)


def chosen_labels(table: VoteTable, odds: Floats) -> NDArray[np.int64]:
    """
    The most probable label of each row.

    A tie goes to the label that more sure teachers chose, then to the teacher listed first.
    """
    rows, teachers = np.nonzero(table.said != NOBODY)
    backing = np.zeros_like(odds)
    width = len(table.teachers)
    rank = (width - teachers) / (width + 1) ** 2  # all ranks together stay below one sure vote
    worth = table.sure[rows, teachers] + rank
    np.add.at(backing, (rows, table.said[rows, teachers]), worth)
    return np.asarray(np.argmax(odds + 1e-6 * backing, axis=1), dtype=np.int64)


def _learned(
    answers: Iterable[AnyAnswer],
    task: TaskDefinition,
    config: Aggregation,
    teachers: Sequence[str],
    gold: Mapping[str, str],
) -> Reliability | None:
    survey = Survey(task.label_names, config, len(gold), teachers)
    for ballot in ballots(answers):
        survey.add(ballot, gold.get(ballot.example_id))
    if strangers := set(survey.teachers) - set(teachers):
        raise ConfigError(
            f"teachers: there are answers of {', '.join(sorted(strangers))}, who is not among "
            f"{', '.join(teachers)}; name every teacher that answered."
        )
    return learn_reliability(survey.table(), learning_model(config))


def _reason(ballot: Ballot) -> str:
    """Why there is no answer: what the first teacher asked made of it."""
    faults = [a for a in ballot.answers if isinstance(a, Unanswered)]
    return faults[0].reason.value if faults else NOT_ASKED
