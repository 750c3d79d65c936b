"""(gold, predictions) -> EvaluationReport: one function judges teacher, students, baselines."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.config.run import EvaluationConfig
from common.errors import InputError
from common.evaluation.calibration import probability_matrix, probability_scores
from common.evaluation.counts import (
    METRICS,
    Codes,
    Floats,
    confusion_counts,
    label_codes,
    metrics_from_counts,
    per_class_from_counts,
)
from common.evaluation.rationales import rationale_means, rationale_scores
from common.evaluation.resampling import bca_intervals, seeded
from common.records import (
    ClassScores,
    EvaluationReport,
    Example,
    Interval,
    Prediction,
    Scalar,
    Subset,
    SystemCard,
    TeacherAnswer,
)
from common.task import LenientReading, TaskDefinition

AGREEMENT = "agreement"
WITHOUT_NEAR_DUPLICATES = "without_near_duplicates"


def evaluate_system(
    system: SystemCard,
    gold: Sequence[Example],
    predictions: Sequence[Prediction],
    task: TaskDefinition,
    settings: EvaluationConfig,
    dataset: str,
    data_fingerprint: str,
    *,
    teacher_answers: Mapping[str, TeacherAnswer] | None = None,
    near_duplicates: Collection[str] = (),
) -> EvaluationReport:
    """
    Judge one system's predictions on labelled texts.

    Predictions are joined by example id, so their order does not matter. An unparseable answer
    (label None) is wrong and counted. `near_duplicates`: ids of test texts that are near to a
    training text; a subset without them is judged beside. `teacher_answers` by example id are
    what rationales are compared with.
    Raises InputError for a missing, double or foreign prediction, and for gold without label.
    """
    joined = join_predictions(gold, predictions, system.name)
    names = task.label_names
    # A teacher's rationales are the reference: against themselves they would always score 1.
    references = {} if system.role == "teacher" else teacher_answers or {}
    return evaluate_codes(
        system,
        gold_codes(gold, names),
        label_codes([p.label for p in joined], names),
        task,
        settings,
        dataset,
        data_fingerprint,
        probabilities=probability_matrix(joined, names),
        parts=text_parts(
            [e.id for e in gold], [e.meta.get(AGREEMENT) for e in gold], near_duplicates
        ),
        lenient=lenient_codes([(p.label, p.raw) for p in joined], task),
        scores=rationale_scores(gold, joined, task, references, settings.encoder),
    )


def evaluate_codes(
    system: SystemCard,
    gold: Codes,
    answers: Codes,
    task: TaskDefinition,
    settings: EvaluationConfig,
    dataset: str,
    data_fingerprint: str,
    *,
    probabilities: Floats | None = None,
    parts: Mapping[str, NDArray[np.bool_]] | None = None,
    lenient: Codes | None = None,
    scores: Mapping[str, Floats] | None = None,
) -> EvaluationReport:
    """
    `evaluate_system` on label codes of shape (texts,): for a million texts as for a thousand.

    `probabilities` (texts, labels), NaN rows for none; `parts`: masks of texts judged beside;
    `lenient`: codes by the lenient reading; `scores` by name, NaN for texts without.
    """
    names, labels = task.label_names, len(task.labels)
    counts = confusion_counts(gold, answers, labels)
    rng = seeded(settings, system.name, dataset)
    level = settings.confidence_level
    return EvaluationReport(
        system=system,
        dataset=dataset,
        data_fingerprint=data_fingerprint,
        labels=names,
        n=len(gold),
        metrics=metric_intervals(gold, answers, labels, settings, rng),
        per_class=_per_class(counts, names),
        confusion=counts.tolist(),
        unparseable=int(counts[:, -1].sum()),
        subsets={
            name: _subset(gold[mask], answers[mask], labels, settings, rng)
            for name, mask in (parts or {}).items()
        },
        lenient=None if lenient is None else _subset(gold, lenient, labels, settings, rng),
        probability=None
        if probabilities is None
        else probability_scores(
            gold,
            probabilities,
            bins=settings.calibration_bins,
            resamples=settings.bootstrap,
            level=level,
            rng=rng,
        ),
        rationales=rationale_means(scores or {}, level),
    )


def constant_predictions(gold: Sequence[Example], label: str) -> list[Prediction]:
    """What a system that always says `label` would answer: the floor of every table."""
    return [Prediction(example_id=example.id, label=label) for example in gold]


def join_predictions(
    gold: Sequence[Example], predictions: Sequence[Prediction], system: str
) -> list[Prediction]:
    """The predictions in the order of `gold`. Raises InputError where the ids do not match."""
    by_id = {p.example_id: p for p in predictions}
    ids = [example.id for example in gold]
    faults = [
        ("more than one prediction for", len(predictions) - len(by_id), []),
        ("no prediction for", 0, [i for i in ids if i not in by_id]),
        ("predictions for unknown", 0, sorted(by_id.keys() - set(ids))),
    ]
    for what, count, strangers in faults:
        if count or strangers:
            example = f", e.g. '{strangers[0]}'" if strangers else ""
            raise InputError(
                f"system '{system}' has {what} {count or len(strangers)} text(s){example}; "
                f"expected exactly one for each of the {len(ids)} texts judged."
            )
    if len(set(ids)) != len(ids) or not ids:
        raise InputError(f"{len(ids)} gold texts with {len(set(ids))} ids: need one id each.")
    return [by_id[i] for i in ids]


def gold_codes(gold: Sequence[Example], names: Sequence[str]) -> Codes:
    """Label codes of the gold. Raises InputError for a text without label or a foreign one."""
    bare = next((example.id for example in gold if example.label is None), None)
    if bare is not None:
        raise InputError(f"text '{bare}' has no gold label; only labelled texts can be judged.")
    return label_codes([example.label for example in gold], names)


def metric_intervals(
    gold: Codes,
    answers: Codes,
    labels: int,
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> dict[str, Interval]:
    """Every metric with its BCa interval."""
    counts = confusion_counts(gold, answers, labels)
    found = bca_intervals(
        counts, metrics_from_counts, settings.bootstrap, settings.confidence_level, rng
    )
    return dict(zip(METRICS, found, strict=True))


def _per_class(counts: np.ndarray, names: Sequence[str]) -> dict[str, ClassScores]:
    rows = zip(names, *(column.tolist() for column in per_class_from_counts(counts)), strict=True)
    return {
        name: ClassScores(precision=precision, recall=recall, f1=f1, support=support)
        for name, precision, recall, f1, support in rows
    }


def text_parts(
    ids: Sequence[str], agreement: Sequence[Scalar], near_duplicates: Collection[str]
) -> dict[str, NDArray[np.bool_]]:
    """Masks of the parts judged beside: each agreement level, and without near-duplicates."""
    levels = np.array([("" if x is None else str(x)) for x in agreement])
    known = sorted(set(levels.tolist()) - {""}, key=lambda x: (len(x), x))
    parts = {f"{AGREEMENT}_{level}": levels == level for level in known}
    if near_duplicates:
        near = set(near_duplicates)
        parts[WITHOUT_NEAR_DUPLICATES] = np.array([i not in near for i in ids])
    return {name: mask for name, mask in parts.items() if mask.any()}


def parts_in_order(names: Iterable[str]) -> list[str]:
    """Names of parts as a person counts: 50 before 100, whatever order a file has them in."""
    return sorted(names, key=lambda name: (len(name), name))


def _subset(
    codes: Codes, answers: Codes, labels: int, settings: EvaluationConfig, rng: np.random.Generator
) -> Subset:
    return Subset(
        n=len(codes),
        metrics=metric_intervals(codes, answers, labels, settings, rng),
        unparseable=int((answers == labels).sum()),
    )


def read_leniently(text: str, reading: LenientReading) -> str:
    """The first label of the reading's order that `text` contains, else its fallback."""
    lower = text.lower()
    return next((label for label in reading.order if label in lower), reading.otherwise)


def lenient_codes(
    answers: Sequence[tuple[str | None, str | None]], task: TaskDefinition
) -> Codes | None:
    """
    Label codes of (label, raw text) pairs by the task's lenient reading.

    None where the task has no such reading or no answer has a raw text.
    """
    reading = task.lenient_reading
    if reading is None or all(raw is None for _, raw in answers):
        return None
    labels = [read_leniently(raw or label or "", reading) for label, raw in answers]
    return label_codes(labels, task.label_names)
