"""Text to label: strict, and never a guess."""

import pytest

from common.labels import LabelSet

LABELS = LabelSet(["negative", "neutral", "positive"], {"positive": ["bullish"]})


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("positive", "positive"),
        (" Label: **Positive**.", "positive"),
        ('"bullish"', "positive"),
        ("The sentiment is neutral.", "neutral"),
        ("NEGATIVE\n\nBecause the sales fell.", "negative"),
        ("not positive", None),
        ("positive or neutral", None),
        ("", None),
        ("\n", None),
        ("positively", None),
    ],
)
def test_a_text_is_read_as_the_label_it_states_or_as_none(text: str, label: str | None) -> None:
    assert LABELS.parse(text) == label


def test_mentioned_finds_words_not_parts_of_words() -> None:
    assert LABELS.mentioned("Not positively bullish, rather Neutral.") == {"positive", "neutral"}
