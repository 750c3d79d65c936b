"""What rationales are worth: against the teacher's where there is one, and by themselves."""

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

import numpy as np
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from common.evaluation.calibration import mean_interval
from common.evaluation.counts import Floats
from common.evaluation.finance_terms import FinanceTerms, load_terms
from common.evaluation.quantities import number_accuracy
from common.records import Example, Prediction, TeacherAnswer, TextScore
from common.task import TaskDefinition

REFERENCED = ("rouge1", "rouge2", "rougeL", "bleu", "word_overlap")
ALONE = ("number_accuracy", "term_recall", "label_agreement", "words")
ENCODED = ("sentence_similarity", "bertscore")


def rationale_scores(
    gold: Sequence[Example],
    predictions: Sequence[Prediction],
    task: TaskDefinition,
    teacher_answers: Mapping[str, TeacherAnswer],
    encoder: str | None = None,
) -> dict[str, Floats]:
    """
    Every score of every text: arrays of shape (texts,), NaN where a text has no such score.

    Against the teacher's rationale: ROUGE F (rouge-score, stemmed), sentence BLEU (sacrebleu,
    0 to 1), word overlap (Jaccard); with an `encoder`, cosine of sentence embeddings and
    BERTScore F. Alone: number accuracy, recall of financial terms (those of the teacher's
    rationale, else of the text), agreement with the label beside it, length in words.
    Empty where no prediction has a rationale.
    """
    rows = [i for i, p in enumerate(predictions) if p.rationale and p.rationale.strip()]
    if not rows:
        return {}
    terms = load_terms()
    found = {name: np.full(len(gold), np.nan) for name in (*REFERENCED, *ALONE)}
    for i in rows:
        reference = _reference(gold[i], teacher_answers)
        scores = _alone(gold[i], predictions[i], task, terms, reference)
        if reference:
            scores |= _against(predictions[i].rationale or "", reference)
        for name, value in scores.items():
            if value is not None:
                found[name][i] = value
    if encoder:
        found |= _encoded(gold, predictions, rows, teacher_answers, encoder)
    return {name: values for name, values in found.items() if not np.isnan(values).all()}


def rationale_means(scores: Mapping[str, Floats], level: float) -> dict[str, TextScore]:
    """The mean of each score over the texts that have it, with Student's t interval."""
    having = {name: values[~np.isnan(values)] for name, values in scores.items()}
    return {
        name: TextScore(n=len(values), mean=mean_interval(values, level))
        for name, values in having.items()
    }


def _against(rationale: str, reference: str) -> dict[str, float | None]:
    rouge = _rouge().score(reference, rationale)
    scores: dict[str, float | None] = {name: rouge[name].fmeasure for name in REFERENCED[:3]}
    scores["bleu"] = sacrebleu.sentence_bleu(rationale, [reference]).score / 100
    scores["word_overlap"] = word_overlap(rationale, reference)
    return scores


def _alone(
    example: Example,
    prediction: Prediction,
    task: TaskDefinition,
    terms: FinanceTerms,
    reference: str | None,
) -> dict[str, float | None]:
    rationale = prediction.rationale or ""
    directions = terms.direction_of
    return {
        "number_accuracy": number_accuracy(rationale, example.text, directions),
        "term_recall": term_recall(rationale, reference or example.text, terms),
        "label_agreement": label_agreement(rationale, prediction.label, task),
        "words": float(len(rationale.split())),
    }


def word_overlap(first: str, second: str) -> float:
    """Jaccard: shared words over all words, both as sets in lower case."""
    one, two = (set(_words(text)) for text in (first, second))
    return len(one & two) / len(one | two) if one | two else 0.0


def term_recall(rationale: str, source: str, terms: FinanceTerms) -> float | None:
    """Share of the source's financial terms that the rationale names; None without any."""
    wanted = terms.found(source)
    return len(wanted & terms.found(rationale)) / len(wanted) if wanted else None


def label_agreement(rationale: str, label: str | None, task: TaskDefinition) -> float | None:
    """
    1 where the one label that the rationale names is the one given with it, 0 for another.

    None where the rationale names no label, or several: it states none.
    """
    named = task.label_set.mentioned(rationale)
    return float(named == {label}) if len(named) == 1 else None


def _words(text: str) -> list[str]:
    return [word.strip(".,;:!?()[]\"'") for word in text.lower().split()]


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(list(REFERENCED[:3]), use_stemmer=True)


def _encoded(
    gold: Sequence[Example],
    predictions: Sequence[Prediction],
    rows: Sequence[int],
    teacher_answers: Mapping[str, TeacherAnswer],
    encoder: str,
) -> dict[str, Floats]:
    places = [i for i in rows if _reference(gold[i], teacher_answers)]
    if not places:
        return {}
    pairs = tuple(
        (predictions[i].rationale or "", _reference(gold[i], teacher_answers) or "") for i in places
    )
    found = {name: np.full(len(gold), np.nan) for name in ENCODED}
    for name, values in zip(ENCODED, _encoder_scores(pairs, encoder), strict=True):
        found[name][places] = values
    return found


@lru_cache(maxsize=8)
def _encoder_scores(pairs: tuple[tuple[str, str], ...], encoder: str) -> tuple[Floats, Floats]:
    # A system is judged and then compared: its rationales need to go through the encoder once.
    from common.evaluation.encoders import bert_scores, sentence_similarities

    mine, references = (list(column) for column in zip(*pairs, strict=True))
    return sentence_similarities(mine, references, encoder), bert_scores(mine, references, encoder)


def _reference(example: Example, teacher_answers: Mapping[str, TeacherAnswer]) -> str | None:
    answer = teacher_answers.get(example.id)
    return (answer.rationale if answer else None) or None
