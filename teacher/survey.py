"""The first pass over all answers: what came from whom at what cost, and a sample to learn from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from common.config.teacher import Aggregation
from common.records import TeacherAnswer, Usage
from teacher.vote_table import EvenSample, Row, VoteTable, vote_table
from teacher.votes import AnyAnswer, Ballot


@dataclass
class Tally:
    """
    One teacher's answers, counted. `paid` is the part of `usage` that was not cached: what this
    job spent, while `usage` is what the answers cost whoever asked first.
    """

    answers: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    cached: int = 0
    usage: Usage = field(default_factory=Usage)
    paid: Usage = field(default_factory=Usage)
    models: Counter[str] = field(default_factory=Counter)
    texts: int = 0

    def add(self, answer: AnyAnswer) -> None:
        """Count one answer."""
        if isinstance(answer, TeacherAnswer):
            self.answers += 1
            if answer.model:
                self.models[answer.model] += 1
        else:
            self.unanswered[answer.reason.value] += 1
        self.cached += answer.cached
        if answer.usage != _NOTHING:
            self.usage += answer.usage
            if not answer.cached:
                self.paid += answer.usage


class Survey:
    """
    Fed with every ballot once. The teachers need not be known before: they are listed in the
    order in which they were first met, which is the order in which they were asked.
    """

    def __init__(self, labels: Sequence[str], aggregation: Aggregation, probe_rows: int = 0):
        self.tallies: dict[str, Tally] = {}
        self.texts = 0
        self._labels = tuple(labels)
        self._sure_above = aggregation.sure_above
        self._probe_left = probe_rows if aggregation.learn_from == "probe" else 0
        self._sample = EvenSample()

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers in the order in which they were asked."""
        return tuple(self.tallies)

    def add(self, ballot: Ballot, gold: str | None = None) -> None:
        """
        Count a ballot. `gold` judges; the first `probe_rows` of training gold teach instead.
        """
        self.texts += 1
        for answer in ballot.answers:
            self.tallies.setdefault(answer.teacher, Tally()).add(answer)
        for teacher in {answer.teacher for answer in ballot.answers}:
            self.tallies[teacher].texts += 1
        probe = gold is not None and self._probe_left > 0
        self._probe_left -= probe
        opinions = ballot.opinions(self.teachers, self._labels, self._sure_above)
        self._sample.add(Row(opinions, gold, probe))

    def table(self) -> VoteTable:
        """An even sample of the rows, with all rows of the probe."""
        return vote_table(list(self._sample.rows()), self.teachers, self._labels)


_NOTHING = Usage()
