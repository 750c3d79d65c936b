"""Systems side by side on the same texts: every pair tested, verdicts written."""

from collections.abc import Sequence
from itertools import combinations

from common.config.run import EvaluationConfig
from common.errors import InputError
from common.evaluation.browse import browse_texts
from common.evaluation.comparison import (
    Comparison,
    Family,
    Judged,
    PairComparison,
    ReportContext,
)
from common.evaluation.counts import Codes, label_codes
from common.evaluation.evaluate import (
    constant_predictions,
    evaluate_system,
    gold_codes,
    join_predictions,
)
from common.evaluation.grouping import compare_seed_groups
from common.evaluation.pairs import Answers, compare_pair, corrected
from common.evaluation.published import figures_for, load_published
from common.evaluation.resampling import seeded
from common.evaluation.scores import text_scores
from common.evaluation.verdicts import display_name, headline, listed, outcome_of, sentence
from common.records import EvaluationReport, Example, SystemCard, TeacherAnswer
from common.task import TaskDefinition

PRIMARY, SECONDARY = "primary", "secondary"


def compare_systems(
    systems: Sequence[Judged],
    gold: Sequence[Example],
    task: TaskDefinition,
    settings: EvaluationConfig,
    *,
    context: ReportContext,
) -> Comparison:
    """
    Compare systems judged on the same texts.

    The reference (context.reference, else the first student) is tested against every other
    system: the primary family. All remaining pairs form the secondary family.
    Raises InputError for systems that were not judged on these texts or share a name.
    """
    _check(systems, len(gold))
    names = task.label_names
    codes = gold_codes(gold, names)
    joined = [join_predictions(gold, s.predictions, s.report.system.name) for s in systems]
    reports = _distinct([s.report for s in systems])
    answers = [
        Answers(
            report.system.name,
            label_codes([p.label for p in predictions], names),
            text_scores(gold, codes, predictions, task, _references(report, context)),
        )
        for report, predictions in zip(reports, joined, strict=True)
    ]
    reference = _reference(reports, context.reference)
    pairs, families = compare_answers(codes, answers, len(names), settings, reference)
    titles = {r.system.name: display_name(r.system) for r in reports}
    pairs = [_judged(pair, titles, settings) for pair in pairs]
    groups, group_pairs = compare_seed_groups(reports, codes, answers, len(names), settings)
    primary = [pair for pair in pairs if pair.family == PRIMARY]
    constant_label = max(names, key=[e.label for e in gold].count)
    figures, notes = figures_for(load_published(), len(gold), context.config, context.protocol)
    return Comparison(
        title=context.title or f"{task.title}: {listed(list(titles.values()))}",
        task=task.name,
        labels=names,
        dataset=reports[0].dataset,
        n=len(gold),
        reference=reference,
        systems=reports,
        constant=_constant(constant_label, gold, task, settings, reports),
        constant_label=constant_label,
        headline=headline(next(r for r in reports if r.system.name == reference), primary, titles),
        verdicts=[p.verdict for p in group_pairs] + [p.verdict for p in primary],
        families=families,
        pairs=pairs,
        groups=groups,
        group_pairs=group_pairs,
        published=figures,
        published_notes=notes,
        texts=browse_texts(gold, joined, task, settings.browse_rows, context),
        texts_total=len(gold),
        context=context,
    )


def compare_answers(
    gold: Codes,
    answers: Sequence[Answers],
    labels: int,
    settings: EvaluationConfig,
    reference: str,
) -> tuple[list[PairComparison], list[Family]]:
    """Every pair of systems tested on label codes, p values corrected within two families."""
    found: dict[str, list[PairComparison]] = {PRIMARY: [], SECONDARY: []}
    ordered = sorted(answers, key=lambda a: a.name != reference)
    for first, second in combinations(ordered, 2):
        family = PRIMARY if first.name == reference else SECONDARY
        rng = seeded(settings, first.name, second.name)
        pair = compare_pair(gold, first, second, labels, settings, rng, family)
        found[family].append(pair)
    statements = {
        PRIMARY: "{size} comparison(s) of the reference system with each other system",
        SECONDARY: "the remaining {size} pair(s) of systems, explored beside",
    }
    families = [
        Family(
            name=name,
            statement=statements[name].format(size=len(pairs)) + ", each metric for itself",
            size=len(pairs),
            alpha=settings.alpha,
        )
        for name, pairs in found.items()
        if pairs
    ]
    return [p for pairs in found.values() for p in corrected(pairs, settings.alpha)], families


def _check(systems: Sequence[Judged], n: int) -> None:
    names = [s.report.system.name for s in systems]
    if not systems or len(set(names)) != len(names):
        raise InputError(f"systems {names}: need at least one, and a name of its own for each.")
    for judged in systems:
        report = judged.report
        if report.n != n or report.data_fingerprint != systems[0].report.data_fingerprint:
            raise InputError(
                f"system '{report.system.name}' was judged on {report.n} texts of "
                f"'{report.dataset}' ({report.data_fingerprint[:10]}), not on these {n}: "
                "systems can be compared on the same texts only."
            )


def _references(report: EvaluationReport, context: ReportContext) -> dict[str, TeacherAnswer]:
    return {} if report.system.role == "teacher" else context.teacher_answers


def _distinct(reports: Sequence[EvaluationReport]) -> list[EvaluationReport]:
    """The reports with titles of their own: two runs of one recipe are told apart by name."""
    titles = [r.system.title for r in reports]
    return [
        r
        if titles.count(r.system.title) == 1
        else r.model_copy(
            update={
                "system": r.system.model_copy(
                    update={"title": f"{r.system.title} [{r.system.name}]"}
                )
            }
        )
        for r in reports
    ]


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
    label: str,
    gold: Sequence[Example],
    task: TaskDefinition,
    settings: EvaluationConfig,
    reports: Sequence[EvaluationReport],
) -> EvaluationReport | None:
    """The always-`label` row; None where a system given answers just that already."""
    column = task.label_names.index(label)
    if any(sum(row[column] for row in r.confusion) == r.n for r in reports):
        return None
    card = SystemCard(name=f"always-{label}", role="baseline", title=f"always {label}")
    predictions = constant_predictions(gold, label)
    first = reports[0]
    return evaluate_system(
        card, gold, predictions, task, settings, first.dataset, first.data_fingerprint
    )
