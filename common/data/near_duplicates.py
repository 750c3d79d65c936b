"""Test texts that nearly stand in the training part: rewritten figures, added clauses."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MAX_ROWS = 20_000  # all pairs are compared: about 20 s at this size
_ROWS_PER_BLOCK = 256


def nearest_cosine(test: Sequence[str], train: Sequence[str]) -> npt.NDArray[np.float64]:
    """
    For each test text the highest TF-IDF cosine to any training text; shape (len(test),).

    Character 3-5-grams within word boundaries, logarithmic term counts, document frequencies of
    both parts: the reading under which 40 test rows of FinGPT's split of the Financial PhraseBank
    lie at 0.8 or above, and 19 at 0.9. Compares all pairs, a block of test rows at a time.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not test or not train:
        return np.zeros(len(test))
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    both = vectors.fit_transform([*train, *test]).tocsr()
    known, asked = both[: len(train)].T.tocsr(), both[len(train) :]
    blocks = [
        (asked[start : start + _ROWS_PER_BLOCK] @ known).max(axis=1).toarray().ravel()
        for start in range(0, len(test), _ROWS_PER_BLOCK)
    ]
    return np.concatenate(blocks)
