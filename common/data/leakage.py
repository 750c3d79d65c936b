"""The guard against judging a system on texts it was trained on."""

from collections.abc import Iterable

from common.data.fold import fold_key
from common.records import Example


def leaked(test: Iterable[Example], trained_on: Iterable[str]) -> list[str]:
    """
    Ids of the test examples, in order, whose folded text stands among `trained_on`.

    `trained_on` are texts: training pairs, and the few-shot examples a teacher was shown. Both
    are read once; memory holds eight bytes a test text and its id.
    """
    asked = [(example.id, fold_key(example.text)) for example in test]
    waiting = {key for _, key in asked}
    met = {key for text in trained_on if (key := fold_key(text)) in waiting}
    return [example_id for example_id, key in asked if key in met]
