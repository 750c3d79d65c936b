"""Systems side by side on the same texts: every pair tested, verdicts written."""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from common.config.run import EvaluationConfig
from common.errors import InputError
from common.evaluation.browse import browse_texts
from common.evaluation.calibration import probability_matrix
from common.evaluation.comparison import (
    BrowseText,
    Comparison,
    Family,
    Judged,
    PairComparison,
    ReportContext,
)
from common.evaluation.correction import corrected
from common.evaluation.counts import Codes, label_codes
from common.evaluation.evaluate import (
    AGREEMENT,
    evaluate_codes,
    gold_codes,
    join_predictions,
    text_parts,
)
from common.evaluation.grouping import PRIMARY, SECONDARY, compare_seed_groups, group_headline
from common.evaluation.paired_calibration import confidence_of
from common.evaluation.pairs import Answers, compare_pair
from common.evaluation.published import figures_for, load_published
from common.evaluation.resampling import seeded
from common.evaluation.scores import probability_text_scores, rationale_text_scores
from common.evaluation.verdicts import display_name, headline, listed, outcome_of, sentence
from common.records import EvaluationReport, Example, Prediction, SystemCard
from common.task import TaskDefinition

EACH_FOR_ITSELF = "each metric (and label, part and score) for itself"


def compare_systems(
    systems: Sequence[Judged],
    gold: Sequence[Example],
    task: TaskDefinition,
    settings: EvaluationConfig,
    *,
    context: ReportContext,
    near_duplicates: Collection[str] = (),
) -> Comparison:
    """
    Compare systems judged on the same texts; `near_duplicates` as for `evaluate_system`.

    The reference (context.reference, else the first student) is tested against every other
    system: the primary family. All remaining pairs form the secondary family.
    Raises InputError for systems that were not judged on these texts or share a name.
    """
    names = task.label_names
    codes = gold_codes(gold, names)
    reports = distinct_reports([s.report for s in systems], len(gold))
    joined = [join_predictions(gold, s.predictions, s.report.system.name) for s in systems]
    answers = [
        _answers(report, gold, codes, predictions, task, settings, context)
        for report, predictions in zip(reports, joined, strict=True)
    ]
    texts = browse_texts(gold, joined, task, settings.browse_rows, context)
    levels = [example.meta.get(AGREEMENT) for example in gold]
    parts = text_parts([example.id for example in gold], levels, near_duplicates)
    return compare_codes(
        reports, codes, answers, task, settings, context=context, texts=texts, parts=parts
    )


def _answers(
    report: EvaluationReport,
    gold: Sequence[Example],
    codes: Codes,
    predictions: Sequence[Prediction],
    task: TaskDefinition,
    settings: EvaluationConfig,
    context: ReportContext,
) -> Answers:
    names = task.label_names
    probabilities = probability_matrix(predictions, names)
    references = {} if report.system.role == "teacher" else context.teacher_answers
    return Answers(
        report.system.name,
        label_codes([p.label for p in predictions], names),
        rationale_text_scores(gold, predictions, task, references, settings.encoder)
        | probability_text_scores(codes, probabilities),
        confidence_of(codes, probabilities),
    )


def compare_codes(
    reports: Sequence[EvaluationReport],
    gold: Codes,
    answers: Sequence[Answers],
    task: TaskDefinition,
    settings: EvaluationConfig,
    *,
    context: ReportContext,
    texts: Sequence[BrowseText] = (),
    parts: Mapping[str, NDArray[np.bool_]] | None = None,
) -> Comparison:
    """
    `compare_systems` on label codes; `answers` in the order of `reports`.

    `parts`: masks of the texts on which the constant answer is judged beside.
    """
    labels = len(task.labels)
    reference = _reference(reports, context.reference)
    pairs, families = compare_answers(
        gold, answers, task.label_names, settings, reference, parts or {}
    )
    titles = {r.system.name: display_name(r.system) for r in reports}
    pairs = [_judged(pair, titles, settings) for pair in pairs]
    groups, group_pairs = compare_seed_groups(reports, gold, answers, labels, settings, reference)
    primary = [pair for pair in pairs if pair.family == PRIMARY]
    accuracy = next(r for r in reports if r.system.name == reference).metrics["accuracy"].value
    told = headline(reference, accuracy, primary, titles)
    if groups:
        told = group_headline(groups, group_pairs, reference)
    figures, notes = figures_for(load_published(), len(gold), context.config, context.protocol)
    constant = int(np.bincount(gold, minlength=labels).argmax())
    return Comparison(
        title=context.title or f"{task.title}: {listed(list(titles.values()))}",
        task=task.name,
        labels=task.label_names,
        dataset=reports[0].dataset,
        n=len(gold),
        reference=reference,
        systems=list(reports),
        constant=_constant(constant, gold, task, settings, reports, parts),
        constant_label=task.label_names[constant],
        headline=told,
        verdicts=[p.verdict for p in group_pairs or primary if p.family == PRIMARY],
        families=families,
        pairs=pairs,
        groups=groups,
        group_pairs=group_pairs,
        published=figures,
        published_notes=notes,
        texts=list(texts),
        texts_total=len(gold),
        context=context,
    )


def compare_answers(
    gold: Codes,
    answers: Sequence[Answers],
    names: Sequence[str],
    settings: EvaluationConfig,
    reference: str,
    parts: Mapping[str, NDArray[np.bool_]],
) -> tuple[list[PairComparison], list[Family]]:
    """Every pair of systems tested on label codes, p values corrected within two families."""
    found: dict[str, list[PairComparison]] = {PRIMARY: [], SECONDARY: []}
    ordered = sorted(answers, key=lambda a: a.name != reference)
    for first, second in combinations(ordered, 2):
        family = PRIMARY if first.name == reference else SECONDARY
        rng = seeded(settings, first.name, second.name)
        pair = compare_pair(gold, first, second, names, settings, rng, family, parts)
        found[family].append(pair)
    statements = {
        PRIMARY: "{size} comparison(s) of the reference system with each other system",
        SECONDARY: "the remaining {size} pair(s) of systems, explored beside",
    }
    families = [
        Family(
            name=name,
            statement=f"{statements[name].format(size=len(pairs))}, {EACH_FOR_ITSELF}",
            size=len(pairs),
            alpha=settings.alpha,
        )
        for name, pairs in found.items()
        if pairs
    ]
    return [p for pairs in found.values() for p in corrected(pairs, settings.alpha)], families


def distinct_reports(reports: Sequence[EvaluationReport], n: int) -> list[EvaluationReport]:
    """
    The reports, with the seed (where that tells them apart, else the system's name) in every title
    that stands twice.

    Raises InputError where names repeat or a report is not about these `n` texts.
    """
    names = [r.system.name for r in reports]
    if not names or len(set(names)) != len(names):
        raise InputError(f"systems {names}: need at least one, and a name of its own for each.")
    for report in reports:
        if report.n != n or report.data_fingerprint != reports[0].data_fingerprint:
            raise InputError(
                f"system '{report.system.name}' was judged on {report.n} texts of "
                f"'{report.dataset}' ({report.data_fingerprint[:10]}), not on these {n}: "
                "systems can be compared on the same texts only."
            )
    alike: dict[str, list[SystemCard]] = {}
    for report in reports:
        alike.setdefault(report.system.title, []).append(report.system)
    return [_told_apart(report, alike[report.system.title]) for report in reports]


def _told_apart(report: EvaluationReport, alike: Sequence[SystemCard]) -> EvaluationReport:
    if len(alike) == 1:
        return report
    card, seeds = report.system, {each.seed for each in alike}
    by_seed = len(seeds) == len(alike) and None not in seeds
    suffix = f"seed {card.seed}" if by_seed else card.name
    title = f"{card.title} [{suffix}]"
    return report.model_copy(update={"system": card.model_copy(update={"title": title})})


def _reference(reports: Sequence[EvaluationReport], wanted: str | None) -> str:
    names = [r.system.name for r in reports]
    if wanted is not None and wanted not in names:
        raise InputError(f"reference '{wanted}' is not among the systems {', '.join(names)}.")
    students = [r.system.name for r in reports if r.system.role == "student"]
    return wanted or [*students, *names][0]


def _judged(
    pair: PairComparison, names: dict[str, str], settings: EvaluationConfig
) -> PairComparison:
    outcome = outcome_of(pair, settings.alpha)
    verdict = sentence(pair, names, outcome, settings.alpha)
    return pair.model_copy(update={"outcome": outcome, "verdict": verdict})


def _constant(
    label: int,
    gold: Codes,
    task: TaskDefinition,
    settings: EvaluationConfig,
    reports: Sequence[EvaluationReport],
    parts: Mapping[str, NDArray[np.bool_]] | None,
) -> EvaluationReport | None:
    """The row of always the same label; None where a system given answers just that already."""
    if any(sum(row[label] for row in r.confusion) == r.n for r in reports):
        return None
    name = task.label_names[label]
    card = SystemCard(name=f"always-{name}", role="baseline", title=f"always {name}")
    same = np.full_like(gold, label)
    first = reports[0]
    return evaluate_codes(
        card, gold, same, task, settings, first.dataset, first.data_fingerprint, parts=parts
    )
