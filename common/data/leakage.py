"""The guard against judging a system on texts it was trained on."""

from collections.abc import Iterable

from common.data.fold import fold_key


def leaked(test: Iterable[tuple[str, str]], trained_on: Iterable[str]) -> list[str]:
    """
    Ids of the test rows (id, text), in order, whose folded text stands among `trained_on`.

    `trained_on` are texts: training and validation rows, and the few-shot examples a teacher was
    shown. Both are read once; memory holds eight bytes a test text and its id.
    """
    asked = [(row_id, fold_key(text)) for row_id, text in test]
    waiting = {key for _, key in asked}
    met = {key for text in trained_on if (key := fold_key(text)) in waiting}
    return [row_id for row_id, key in asked if key in met]
