"""What every student must beat: the most frequent label, and TF-IDF with logistic regression."""

from collections import Counter
from collections.abc import Sequence

from common.errors import StudentError
from common.records import Example, Prediction, TrainingPair


def predict_majority(
    pairs: Sequence[TrainingPair], test: Sequence[Example], labels: Sequence[str]
) -> list[Prediction]:
    """
    The most frequent training label for every text, with the training shares as probabilities.

    Ties go to the label that stands first in `labels`. Raises StudentError without pairs.
    """
    if not pairs:
        raise StudentError("baseline majority: there are no training pairs to count.")
    counts = Counter(pair.label for pair in pairs)
    label = max(labels, key=lambda name: counts[name])
    shares = {name: counts[name] / len(pairs) for name in labels}
    return [Prediction(example_id=e.id, label=label, probabilities=shares) for e in test]


def predict_tfidf(
    pairs: Sequence[TrainingPair], test: Sequence[Example], labels: Sequence[str], seed: int
) -> list[Prediction]:
    """
    Word 1-2-grams, sublinear TF-IDF, multinomial logistic regression; scikit-learn's defaults else.

    Labels that never occur in training get probability 0. Raises StudentError with fewer than two.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len({pair.label for pair in pairs}) < 2:
        raise StudentError("baseline tfidf: the training pairs must carry at least two labels.")
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1),
        LogisticRegression(C=10.0, max_iter=2000, random_state=seed),
    )
    model.fit([pair.text for pair in pairs], [pair.label for pair in pairs])
    scores = model.predict_proba([example.text for example in test])
    known = [str(name) for name in model.classes_]
    predictions = []
    for example, row in zip(test, scores, strict=True):
        shares = dict.fromkeys(labels, 0.0) | dict(zip(known, map(float, row), strict=True))
        label = max(labels, key=lambda name: shares[name])
        predictions.append(Prediction(example_id=example.id, label=label, probabilities=shares))
    return predictions
