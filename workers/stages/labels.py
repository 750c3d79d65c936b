"""Asking the teachers: a probe first, then the rows in chunks, each chunk a file of answers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from common.data.store import read_records, read_slice, write_records
from common.records import Answer, Example, TeacherAnswer, Unanswered
from teacher.cascade import rows_for_next
from teacher.quality import judge_probe, judge_smoke
from teacher.terms import check_terms
from teacher.votes import in_row_order
from workers.graph import fingerprint
from workers.run_directory import read_json, write_json
from workers.stages.asking import AnyAnswer, Asking, Tally
from workers.stages.context import StageContext


def probe_teachers(context: StageContext) -> None:
    """
    Ask each teacher a few rows and judge them before the rest is paid for.

    The answers stay in the cache: the probe costs nothing twice. Raises TeacherUnfit, and
    UsageError for a teacher whose answers nobody may train on.
    """
    config, labelling = context.config, context.config.labelling
    smoke = _to_label(context, 0, labelling.smoke_rows)
    probe = list(_gold_sample(context, labelling.probe.rows))
    asking = [Asking(context, teacher) for teacher in config.all_teachers]
    for ask in asking:
        check_terms([ask.teacher.name, ask.teacher.model], labelling.accept_terms)
    reports = []
    for done, ask in enumerate(asking):
        context.report(done, len(asking))
        report: dict[str, object] = {"teacher": ask.teacher.name}
        report["smoke"] = judge_smoke(ask(smoke), labelling, context.task).model_dump(mode="json")
        if probe:
            gold = {example.id: str(example.label) for example in probe}
            report["probe"] = judge_probe(ask(probe), gold, labelling).model_dump(mode="json")
        reports.append(report)
    write_json(context.run.labels / "probe.json", reports)
    context.report(len(reports), len(reports))


def label_chunk(context: StageContext, index: int) -> None:
    """Ask every teacher about one chunk of rows; its file appears when all are answered."""
    target = chunk_file(chunk_folder(context), index)
    size = context.config.labelling.chunk_rows
    examples = _to_label(context, index * size, (index + 1) * size)
    tally = Tally(context, len(examples))
    if not target.exists():
        answers: list[AnyAnswer] = []
        for teacher_config in context.config.all_teachers:
            if rows := rows_for_next(examples, answers, context.config.aggregation):
                answers += Asking(context, teacher_config, tally).collected(rows)
        tally.tell()
        answers = in_row_order(answers)
        write_records(target, answers, Answer)
    else:
        answers = list(read_records(target, Answer))
    counts = {**tally.counts, **_counts(answers)}
    context.report(len(examples), len(examples), "rows", counts)


def label_all_chunks(context: StageContext) -> None:
    """Every chunk, one after the other, in this process."""
    rows = _rows(context)
    for index in range(chunks_of(context)):
        label_chunk(context, index)
        context.report(min((index + 1) * context.config.labelling.chunk_rows, rows), rows, "rows")


def chunks_of(context: StageContext) -> int:
    """How many chunks the rows make."""
    return max(1, -(-_rows(context) // context.config.labelling.chunk_rows))


def all_chunks_done(context: StageContext) -> bool:
    """Whether every chunk's file is there."""
    folder = chunk_folder(context)
    return all(chunk_file(folder, index).exists() for index in range(chunks_of(context)))


def chunk_folder(context: StageContext) -> Path:
    """Where the chunks' answers lie; another question or another teacher is another folder."""
    return context.run.labels / "chunks" / fingerprint(context.config, "label")[:16]


def chunk_file(folder: Path, index: int) -> Path:
    """The answers to one chunk."""
    return folder / f"{index:06d}.parquet"


def all_answers(context: StageContext) -> Iterator[AnyAnswer]:
    """Every answer of every chunk, in row order."""
    folder = chunk_folder(context)
    for index in range(chunks_of(context)):
        yield from read_records(chunk_file(folder, index), Answer)


def _rows(context: StageContext) -> int:
    return int(read_json(context.run.split_file)["to_label"])


def _to_label(context: StageContext, start: int, stop: int) -> list[Example]:
    return list(read_slice(context.run.part("to_label"), start, stop, Example))


def _gold_sample(context: StageContext, most: int) -> Iterator[Example]:
    """The first rows of the training part that somebody has labelled."""
    for example in read_records(context.run.part("to_label"), Example):
        if most <= 0:
            return
        if example.label is not None:
            most -= 1
            yield example


def _counts(answers: Sequence[AnyAnswer]) -> dict[str, float]:
    return {
        "answered": sum(isinstance(answer, TeacherAnswer) for answer in answers),
        "unanswered": sum(isinstance(answer, Unanswered) for answer in answers),
        "cached": sum(answer.cached for answer in answers),
        "usd": sum(answer.usage.usd for answer in answers if not answer.cached),
        "input_tokens": sum(a.usage.input_tokens for a in answers if not a.cached),
        "output_tokens": sum(a.usage.output_tokens for a in answers if not a.cached),
    }
