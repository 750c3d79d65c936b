"""From all answers of a run to training pairs, the labelled set, its card and its summary."""

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from common.config import RunConfig
from common.config.teacher import TeacherConfig
from common.data.store import count_records, read_answers, read_records, record_writer
from common.errors import ConfigError, InputError
from common.records import Example, TrainingPair
from common.task import TaskDefinition
from teacher.aggregate import (
    NOT_ASKED,
    Aggregated,
    Aggregator,
    Dropped,
    check_kind,
    learning_model,
)
from teacher.agreement import TeachersReport, judge_teachers
from teacher.data_card import CardFacts, Origin, origin_of, render_card, terms_line
from teacher.dawid_skene import Reliability, learn_reliability
from teacher.survey import Survey
from teacher.terms import check_terms
from teacher.votes import Ballot, ballots
from workers.labelled_set import labelled_set
from workers.run_directory import RunDirectory, read_json, write_json, write_text

PARTS = ("train", "validation")
R = TypeVar("R", bound=Ballot | Aggregated | Dropped)


def collect_labels(run: RunDirectory, config: RunConfig, task: TaskDefinition) -> dict[str, Any]:
    """
    Read labels/answers.parquet twice: to count and learn, then to decide row by row.

    Writes pairs_teacher_*.parquet, labelled.parquet, dropped.parquet, teachers.json and
    DATA_CARD.md; returns the summary. Memory: a sample of the votes and one block of rows.
    Raises ConfigError for teachers that do not fit the aggregation, UsageError for terms.
    """
    survey = _survey(run, config, task)
    _check(survey, config)
    reliability = _learn(survey, config)
    counted = _write_rows(run, config, task, survey.teachers, reliability)
    report = judge_teachers(survey, config.aggregation, reliability)
    write_json(run.labels / "teachers.json", report.model_dump(mode="json"))
    origins = _origins(survey, config, task)
    card = render_card(_card_facts(run, config, task, counted, origins), report)
    write_text(run.labels / "DATA_CARD.md", card)
    return _summary(counted, report, origins)


@dataclass
class _Counted:
    """What was written."""

    labels: dict[str, Counter[str]] = field(default_factory=lambda: {p: Counter() for p in PARTS})
    dropped: Counter[str] = field(default_factory=Counter)
    with_rationale: int = 0
    gold_rows: int = 0
    gold_right: int = 0

    @property
    def kept(self) -> int:
        """Texts with a label, all parts together."""
        return sum(counts.total() for counts in self.labels.values())

    def keep(self, part: str, example: Example, said: Aggregated) -> None:
        """Count a text with a label."""
        self.labels[part][said.label] += 1
        self.with_rationale += said.rationale is not None
        if example.label is not None:
            self.gold_rows += 1
            self.gold_right += said.label == example.label


def _survey(run: RunDirectory, config: RunConfig, task: TaskDefinition) -> Survey:
    # one teacher is compared with nobody: all gold judges it
    probe = config.labelling.probe.rows if len(config.all_teachers) > 1 else 0
    survey = Survey(task.label_names, config.aggregation, probe)
    for example, ballot in _joined(run, ballots(read_answers(run.answers))):
        if ballot is not None:
            survey.add(ballot, example.label)
    return survey


def _check(survey: Survey, config: RunConfig) -> None:
    configured = config.all_teachers
    if len(survey.teachers) < len(configured) and config.aggregation.kind != "cascade":
        raise ConfigError(
            f"teachers: {len(configured)} are configured, but the answers name only "
            f"{', '.join(survey.teachers) or 'none'}; give each its own `name`."
        )
    if config.aggregation.kind != "cascade":
        check_kind(config.aggregation, survey.teachers)
    for name, tally in survey.tallies.items():
        check_terms([name, *tally.models], config.labelling.accept_terms)


def _learn(survey: Survey, config: RunConfig) -> Reliability | None:
    if len(survey.teachers) < 2:
        return None
    return learn_reliability(survey.table(), learning_model(config.aggregation))


def _write_rows(
    run: RunDirectory,
    config: RunConfig,
    task: TaskDefinition,
    teachers: Sequence[str],
    reliability: Reliability | None,
) -> _Counted:
    aggregator = Aggregator(
        tuple(task.label_names),
        tuple(teachers),
        config.aggregation,
        reliability,
        config.labelling.min_confidence,
    )
    decided = aggregator.decide(ballots(read_answers(run.answers)))
    training = count_records(run.part("train"))
    counted = _Counted()
    with ExitStack() as files:
        pairs = {
            part: files.enter_context(record_writer(run.pairs(part, "teacher"), TrainingPair))
            for part in PARTS
        }
        dropped = files.enter_context(record_writer(run.labels / "dropped.parquet", Dropped))
        labelled = files.enter_context(
            labelled_set(run.labels / "labelled.parquet", task.label_names)
        )
        for index, (example, said) in enumerate(_joined(run, decided)):
            part = PARTS[index >= training]
            if isinstance(said, Aggregated):
                pairs[part].add(_pair(example, said))
                labelled.add(example, part, said)
                counted.keep(part, example, said)
            else:
                out = said or Dropped(example_id=example.id, reason=NOT_ASKED)
                dropped.add(out)
                counted.dropped[out.reason] += 1
    return counted


def _joined(run: RunDirectory, results: Iterable[R]) -> Iterator[tuple[Example, R | None]]:
    """Every example with its result, None where there is none; both come in row order."""
    stream = iter(results)
    waiting = next(stream, None)
    for example in read_records(run.part("to_label"), Example):
        if waiting is not None and waiting.example_id == example.id:
            yield example, waiting
            waiting = next(stream, None)
        else:
            yield example, None
    if waiting is not None:
        raise InputError(
            f"{run.answers} and {run.part('to_label')} do not belong together: the answer to "
            f"'{waiting.example_id}' has no text in its place; label again."
        )


def _pair(example: Example, said: Aggregated) -> TrainingPair:
    return TrainingPair(
        example_id=example.id,
        text=example.text,
        label=said.label,
        rationale=said.rationale,
        probabilities=said.probabilities,
        confidence=said.confidence,
        rationale_odds=said.rationale_odds,
    )


def _origins(survey: Survey, config: RunConfig, task: TaskDefinition) -> list[Origin]:
    """Teachers were met in the order of the configuration; a cascade may not need its last."""
    asked: list[tuple[str, TeacherConfig]] = list(
        zip(survey.teachers, config.all_teachers, strict=False)
    )
    return [origin_of(c, name, sorted(survey.tallies[name].models), task) for name, c in asked]


def _card_facts(
    run: RunDirectory,
    config: RunConfig,
    task: TaskDefinition,
    counted: _Counted,
    origins: list[Origin],
) -> CardFacts:
    split = read_json(run.split_file) or {}
    return CardFacts(
        title=f"Labelled set of {run.run_id}",
        task=task.title,
        data=str(config.data.name or split.get("source") or config.data.kind),
        data_fingerprint=str(split.get("fingerprint", "")),
        licences=config.data.bare_licences,
        collected=datetime.datetime.now(datetime.UTC).date(),
        counts={part: dict(sorted(counts.items())) for part, counts in counted.labels.items()},
        kept=counted.kept,
        dropped=dict(counted.dropped.most_common()),
        with_rationale=counted.with_rationale,
        origins=origins,
    )


def _summary(counted: _Counted, report: TeachersReport, origins: list[Origin]) -> dict[str, Any]:
    """What the run's report shows; `teachers` and `agreement` as in teachers.json."""
    labels = sum(counted.labels.values(), Counter[str]())
    return {
        "kept": counted.kept,
        "dropped": dict(counted.dropped),
        "labels": dict(labels),
        "with_rationale": counted.with_rationale,
        "gold_rows": counted.gold_rows,
        "gold_agreement": counted.gold_right / counted.gold_rows if counted.gold_rows else None,
        "aggregation": report.kind,
        "usd": sum(figures.usd for figures in report.teachers),
        "usd_paid": sum(figures.usd_paid for figures in report.teachers),
        "teachers": [figures.model_dump(mode="json") for figures in report.teachers],
        "agreement": [pair.model_dump(mode="json") for pair in report.pairs],
        "terms": [f"{o.teacher}: {terms_line([o.teacher, *o.models])}" for o in origins],
    }
