"""Several systems of one or several runs, judged on the same texts, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.data.fold import fold_key
from common.data.store import count_records, read_records
from common.errors import InputError
from common.evaluation.answers_file import write_answers
from common.evaluation.compare import compare_systems
from common.evaluation.comparison import Comparison, Judged
from common.evaluation.evaluate import evaluate_system
from common.evaluation.explained import on_shared_texts
from common.evaluation.render import render_html, render_markdown
from common.evaluation.same_answers import each_once
from common.records import Example, Prediction, TeacherAnswer
from common.task import load_task
from workers.comparing_files import compare_large
from workers.judged_texts import JudgedTexts, common_texts, keyed, other_texts, own_texts
from workers.leak_guard import dropped_note, find_leaks, leak_notes, refuse_leaks
from workers.outside import judged_outside, teacher_answers
from workers.provenance import context_of
from workers.run_directory import Run, RunDirectory, write_text
from workers.services import Settings
from workers.systems import Options, System, systems_of

LARGE = 50_000  # test texts above which a comparison works column by column


@dataclass(frozen=True)
class Judgement:
    """A comparison with what it stands on; empty where that is too large to be held."""

    comparison: Comparison
    gold: Sequence[Example] = ()
    judged: Sequence[Judged] = ()


def compare_runs(
    runs: Sequence[Run], options: Options | None = None, settings: Settings | None = None
) -> Comparison:
    """The comparison of `judge_runs`."""
    return judge_runs(runs, options, settings).comparison


def judge_runs(
    runs: Sequence[Run], options: Options | None = None, settings: Settings | None = None
) -> Judgement:
    """
    Compare the judged systems of `runs`; `settings` are needed to judge other texts (`on`).

    Raises InputError when the runs were not judged on the same texts, when one has seen texts it
    is to be judged on, or when nothing was judged.
    """
    options = options or Options()
    systems = systems_of(runs, options.only)
    runs = [run for run in runs if any(s.run is run for s in systems)]
    if not systems:
        raise InputError("there is no evaluated system of these names to compare.")
    if not options.on and count_records(runs[0][0].part("test")) > LARGE:
        return Judgement(compare_large(runs, systems, options))
    texts = _texts(runs, options)
    texts = _without_leaks(texts, runs, options.drop_leaked)
    answers = teacher_answers(options.outside, texts, runs[0])
    judged = [_judged(system, texts, settings, answers) for system in systems]
    others, notes = judged_outside(options.outside, texts, runs[0])
    config = runs[0][1]
    task, evaluation = load_task(config.task), config.evaluation
    judged, repeated = each_once([*judged, *others])
    judged, told = on_shared_texts(judged, texts.gold, task, evaluation, answers)
    context = context_of(runs, options, [*texts.notes, *notes, *told, *repeated])
    context = context.model_copy(update={"teacher_answers": answers})
    comparison = compare_systems(
        judged, texts.gold, task, evaluation,
        context=context, near_duplicates=texts.near_duplicates,
    )  # fmt: skip
    return Judgement(comparison, texts.gold, judged)


def write_judgement(directory: RunDirectory, judgement: Judgement) -> None:
    """report.parquet with everybody's answers (where they fit into memory) and the report."""
    if judgement.judged:
        labels = judgement.comparison.labels
        write_answers(directory.report("parquet"), judgement.gold, judgement.judged, labels)
    write_comparison(directory, judgement.comparison)


def write_comparison(directory: RunDirectory, comparison: Comparison) -> None:
    """report.json, report.md and, last, report.html."""
    write_text(directory.report("json"), comparison.model_dump_json(indent=1) + "\n")
    write_text(directory.report("md"), render_markdown(comparison))
    write_text(directory.report("html"), render_html(comparison))


def _texts(runs: Sequence[Run], options: Options) -> JudgedTexts:
    if options.on and options.common:
        raise InputError("--on and --common name two sets of texts; give one of them.")
    if options.on:
        return other_texts(options.on, runs, "the data config")
    return common_texts(runs) if options.common else own_texts(runs)


def _without_leaks(texts: JudgedTexts, runs: Sequence[Run], drop: bool) -> JudgedTexts:
    leaks = find_leaks(runs, texts.rows, own=texts.origin != "other")
    if drop and leaks:
        ids = frozenset(row_id for leak in leaks for row_id in leak.ids)
        return texts.without(ids, dropped_note(leaks, len(ids), len(texts.gold)))
    refuse_leaks(leaks, len(texts.gold))
    return texts.noting(leak_notes(leaks))


def _judged(
    system: System,
    texts: JudgedTexts,
    settings: Settings | None,
    answers: Mapping[str, TeacherAnswer],
) -> Judged:
    """The stored report where it is about these very texts, else a new one."""
    said = _said(system, texts, settings)
    if texts.origin == "own" and texts.whole and not answers:
        return Judged(system.report_on(texts.fingerprint), said)
    config = system.run[1]
    report = evaluate_system(
        system.report.system,
        texts.gold,
        said,
        load_task(config.task),
        config.evaluation,
        texts.dataset,
        texts.fingerprint,
        teacher_answers=answers,
        near_duplicates=texts.near_duplicates,
    )
    return Judged(report, said)


def _said(system: System, texts: JudgedTexts, settings: Settings | None) -> list[Prediction]:
    directory = system.run[0]
    if texts.origin == "other":
        from workers.transfer import predict_elsewhere

        if settings is None:
            raise InputError("other texts can be judged on the command line only.")
        return predict_elsewhere(system.run, system.name, texts, settings)
    said = list(read_records(directory.predictions(system.name), Prediction))
    if texts.origin == "own":
        judged = {example.id for example in texts.gold}
        return [prediction for prediction in said if prediction.example_id in judged]
    return _renamed(said, directory, texts.gold)


def _renamed(
    said: Sequence[Prediction], directory: RunDirectory, gold: Sequence[Example]
) -> list[Prediction]:
    """Predictions of a run's own test part under the ids that the same texts have here."""
    by_id = {prediction.example_id: prediction for prediction in said}
    own = keyed(directory)
    return [
        by_id[own[fold_key(e.text), e.label].id].model_copy(update={"example_id": e.id})
        for e in gold
    ]
