"""The first pass over all answers: what came from whom at what cost, and a sample to learn from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from common.config.teacher import Aggregation
from common.records import TeacherAnswer
from teacher.vote_table import EvenSample, Row, VoteTable, vote_table
from teacher.votes import AnyAnswer, Ballot


@dataclass
class Tally:
    """
    One teacher's answers, counted. `usd` is what the answers cost whoever asked first, `usd_paid`
    the part of it that was not cached: what this job spent.
    """

    answers: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    usd_paid: float = 0.0
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
        self.input_tokens += answer.usage.input_tokens
        self.output_tokens += answer.usage.output_tokens
        self.usd += answer.usage.usd
        self.usd_paid += 0.0 if answer.cached else answer.usage.usd


class Survey:
    """
    Fed with every ballot once. Teachers that are not named before are listed in the order in
    which they are first met, which is the order in which they were asked.
    """

    def __init__(
        self,
        labels: Sequence[str],
        aggregation: Aggregation,
        probe_rows: int = 0,
        teachers: Sequence[str] = (),
    ):
        self.tallies: dict[str, Tally] = {teacher: Tally() for teacher in teachers}
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

        def row() -> Row:
            opinions = ballot.opinions(self.teachers, self._labels, self._sure_above)
            bare = {name: replace(o, rationale=None) for name, o in opinions.items()}
            return Row(bare, gold, probe)

        self._sample.offer(row, probe)

    def table(self) -> VoteTable:
        """An even sample of the rows, with all rows of the probe."""
        return vote_table(self._sample.rows(), self.teachers, self._labels)
