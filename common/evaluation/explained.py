"""Which texts a student explains: rationales are generated word by word, so it explains a few."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b

from common.config.run import EvaluationConfig
from common.data.fold import fold
from common.evaluation.comparison import Judged
from common.evaluation.evaluate import join_predictions
from common.evaluation.rationales import rationale_means, rationale_scores
from common.records import Example, Prediction, TeacherAnswer
from common.task import TaskDefinition


def explained_ids(gold: Sequence[Example], count: int, seed: int) -> frozenset[str]:
    """
    Ids of `count` texts, drawn so that every gold label has its share of them.

    In the order drawn from, the i-th of a label's n texts stands at (i + 1/2) / n; within a label
    a hash of folded text and `seed` decides. So the sample depends on the texts alone, whatever
    their order and ids: systems of different runs explain the same texts, a smaller count lies
    within a larger one, and of two test parts the shared texts come early in both or in neither.
    """
    by_label: dict[str | None, list[tuple[int, str]]] = defaultdict(list)
    for example in gold:
        by_label[example.label].append((_rank(example.text, seed), example.id))
    order = [
        ((i + 0.5) / len(rows), rank, row_id)
        for rows in by_label.values()
        for i, (rank, row_id) in enumerate(sorted(rows))
    ]
    return frozenset(row_id for _, _, row_id in sorted(order)[:count])


def on_shared_texts(
    systems: Sequence[Judged],
    gold: Sequence[Example],
    task: TaskDefinition,
    settings: EvaluationConfig,
    teacher_answers: Mapping[str, TeacherAnswer],
) -> tuple[list[Judged], list[str]]:
    """
    The systems with rationales scored on the texts that all who explain have explained, and a note.

    Otherwise two means would be over different texts. Where no text is shared each keeps its own,
    and the note says that they cannot be compared. The rationales themselves all stay to be read.
    """
    own = {s.report.system.name: explained(s.predictions) for s in systems}
    sets = {ids for ids in own.values() if ids}
    if len(sets) < 2:
        return list(systems), []
    shared = frozenset.intersection(*sets)
    if not shared:
        return list(systems), ["No text was explained by all: rationale scores stand apart."]
    rescored = [_rescored(s, shared, gold, task, settings, teacher_answers) for s in systems]
    most = max(len(ids) for ids in sets)
    note = f"Rationales are scored on the {len(shared):,} texts that all who explain explained"
    return rescored, [f"{note} (of up to {most:,})."]


def _rescored(
    system: Judged,
    shared: Collection[str],
    gold: Sequence[Example],
    task: TaskDefinition,
    settings: EvaluationConfig,
    teacher_answers: Mapping[str, TeacherAnswer],
) -> Judged:
    said = join_predictions(gold, without_rationales(system.predictions, shared), "")
    references = {} if system.report.system.role == "teacher" else teacher_answers
    scores = rationale_scores(gold, said, task, references, settings.encoder)
    means = rationale_means(scores, settings.confidence_level)
    return Judged(system.report.model_copy(update={"rationales": means}), system.predictions)


def explained(predictions: Sequence[Prediction]) -> frozenset[str]:
    """Ids of the texts that stand with a rationale."""
    return frozenset(p.example_id for p in predictions if p.rationale and p.rationale.strip())


def without_rationales(
    predictions: Sequence[Prediction], but_for: Collection[str]
) -> list[Prediction]:
    """The same answers; only those to the texts `but_for` keep their rationales."""
    return [
        p if p.example_id in but_for else p.model_copy(update={"rationale": None})
        for p in predictions
    ]


def _rank(text: str, seed: int) -> int:
    key = fold(text).encode(errors="surrogatepass")
    salt = seed.to_bytes(8, "big")
    return int.from_bytes(blake2b(key, digest_size=8, salt=salt).digest(), "big")
