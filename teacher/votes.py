"""Several answers to one text: whose they are, what each teacher makes of them, how sure it is."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from common.records import TeacherAnswer, TokenOdds, Unanswered

AnyAnswer = TeacherAnswer | Unanswered


@dataclass(frozen=True, slots=True)
class Opinion:
    """
    What one teacher makes of one text over all its samples.

    `shares` are vote shares over the task's labels, in their order. `sure`: its samples agree and
    its probability of the label is high enough (see `unsure`). `probabilities` and `confidence`
    are what the service gave for one sample, or the mean over the samples that chose `label`.
    """

    teacher: str
    label: str
    shares: tuple[float, ...]
    sure: bool
    samples: int
    confidence: float | None
    probabilities: dict[str, float] | None
    rationale: str | None
    rationale_odds: list[TokenOdds] | None = None


@dataclass(frozen=True, slots=True)
class Ballot:
    """All answers to one text, teachers and samples in any order."""

    example_id: str
    answers: tuple[AnyAnswer, ...]

    def opinions(
        self, teachers: Sequence[str], labels: Sequence[str], sure_above: float
    ) -> dict[str, Opinion]:
        """The opinion of each teacher that gave a usable answer, in the order of `teachers`."""
        own: dict[str, list[AnyAnswer]] = {teacher: [] for teacher in teachers}
        for answer in self.answers:
            if answer.teacher in own:
                own[answer.teacher].append(answer)
        found = {name: opinion_of(given, labels, sure_above) for name, given in own.items()}
        return {name: opinion for name, opinion in found.items() if opinion is not None}

    def said(self) -> dict[str, list[str | None]]:
        """Who said what: per teacher the label of each sample in order, None where unusable."""
        record: dict[str, list[str | None]] = {}
        for answer in sorted(self.answers, key=lambda a: a.sample):
            label = answer.label if isinstance(answer, TeacherAnswer) else None
            record.setdefault(answer.teacher, []).append(label)
        return record


def ballots(answers: Iterable[AnyAnswer]) -> Iterator[Ballot]:
    """Answers as ballots; the answers to one text must stand together (see `in_row_order`)."""
    for example_id, group in groupby(answers, key=lambda answer: answer.example_id):
        yield Ballot(example_id, tuple(group))


def in_row_order(answers: Iterable[AnyAnswer]) -> list[AnyAnswer]:
    """The answers of a chunk, teacher by teacher as they were asked, brought together by text."""
    by_text: dict[str, list[AnyAnswer]] = {}
    for answer in answers:
        by_text.setdefault(answer.example_id, []).append(answer)
    return [answer for group in by_text.values() for answer in group]


def opinion_of(
    answers: Sequence[AnyAnswer], labels: Sequence[str], sure_above: float
) -> Opinion | None:
    """
    One teacher's samples of one text as an opinion; None where none is usable.

    Most votes win. A tie goes to the label with the higher summed probability or stated
    confidence, then to the label that the earliest sample gave: never to the label's place in
    the task, which would favour one class.
    """
    usable = sorted((a for a in answers if isinstance(a, TeacherAnswer)), key=lambda a: a.sample)
    if not usable:
        return None
    said = [answer.label for answer in usable]
    chosen = said[0] if len(set(said)) == 1 else _winner(usable)
    backing = [answer for answer in usable if answer.label == chosen]
    explained = next((a for a in backing if a.rationale), None)
    return Opinion(
        teacher=usable[0].teacher,
        label=chosen,
        shares=tuple(said.count(label) / len(said) for label in labels),
        sure=not unsure(answers, sure_above),
        samples=len(usable),
        confidence=_mean([a.confidence for a in backing]),
        probabilities=usable[0].probabilities if len(usable) == 1 else None,
        rationale=explained.rationale if explained else None,
        rationale_odds=explained.rationale_odds if explained else None,
    )


def unsure(answers: Sequence[AnyAnswer], sure_above: float) -> bool:
    """
    Whether one teacher's answers to one text leave doubt.

    They do when a sample is unusable, when samples disagree, or when the mean probability of the
    label (the stated confidence where there are no logprobs) is below `sure_above`. A single
    answer without either gives no ground to be sure of it.
    """
    usable = [answer for answer in answers if isinstance(answer, TeacherAnswer)]
    if len(usable) < len(answers) or len({answer.label for answer in usable}) != 1:
        return True
    evidence = [value for value in map(_stated, usable) if value is not None]
    if not evidence:
        return len(usable) < 2
    return sum(evidence) / len(evidence) < sure_above


def _winner(usable: Sequence[TeacherAnswer]) -> str:
    votes: dict[str, tuple[int, float]] = {}
    for answer in usable:
        count, backing = votes.get(answer.label, (0, 0.0))
        votes[answer.label] = (count + 1, backing + (_stated(answer) or 0.0))
    # max() keeps the first of equals, and the labels stand in the order of the samples
    return max(votes, key=lambda label: votes[label])


def _stated(answer: TeacherAnswer) -> float | None:
    """The probability of the answer's own label, else the confidence the teacher stated."""
    if answer.probabilities is not None:
        return answer.probabilities.get(answer.label, 0.0)
    return answer.confidence


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
