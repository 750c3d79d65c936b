"""Label probabilities from token probabilities, against numbers worked out by hand."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher.label_probabilities import label_probabilities, label_window

LABELS = ["negative", "neutral", "positive"]


def entry(token: str, odds: dict[str, float] | None = None) -> dict[str, Any]:
    def one(text: str, p: float) -> dict[str, Any]:
        return {"token": text, "logprob": math.log(p), "bytes": list(text.encode())}

    odds = odds or {token: 1.0}
    return {**one(token, odds[token]), "top_logprobs": [one(t, p) for t, p in odds.items()]}


def reply(*value: dict[str, Any], lead: str = '": "') -> list[dict[str, Any]]:
    return [entry("{"), entry('"label'), entry(lead), *value, entry('"'), entry("}")]


def test_a_label_in_one_token_competes_with_the_others_there() -> None:
    odds = {"positive": 0.6, "neutral": 0.3, "negative": 0.1}

    found = label_probabilities(reply(entry("positive", odds)), LABELS)

    assert found == pytest.approx({"positive": 0.6, "neutral": 0.3, "negative": 0.1})


def test_a_label_in_several_tokens_is_decided_at_the_first_one_that_tells_it_apart() -> None:
    first = entry("p", {"p": 0.5, "n": 0.25, "Based": 0.25})

    found = label_probabilities(reply(first, entry("os"), entry("itive")), LABELS)

    # "Based" fits no label: p 2/3; "n" fits two and was not followed: 1/3 shared evenly
    assert found == pytest.approx({"positive": 2 / 3, "neutral": 1 / 6, "negative": 1 / 6})


def test_a_shared_beginning_is_followed_to_where_the_labels_part() -> None:
    first = entry("ne", {"ne": 0.6, "p": 0.3, "x": 0.1})
    second = entry("u", {"u": 0.75, "g": 0.25})

    found = label_probabilities(reply(first, second, entry("tral")), LABELS)

    # first: ne 2/3, p 1/3; of the 2/3 three quarters are neutral
    assert found == pytest.approx({"positive": 1 / 3, "neutral": 1 / 2, "negative": 1 / 6})


def test_spellings_of_one_label_by_different_tokens_add_up() -> None:
    first = entry("pos", {"pos": 0.4, "p": 0.2, "positive": 0.1, "neut": 0.3})

    found = label_probabilities(reply(first, entry("itive")), LABELS)

    assert found == pytest.approx({"positive": 0.7, "neutral": 0.3, "negative": 0.0})


def test_a_token_that_holds_the_quote_and_the_label_is_read() -> None:
    first = entry(' "pos', {' "pos': 0.8, ' "neg': 0.1, ' "neu': 0.1, " null": 0.5})

    found = label_probabilities(reply(first, entry("itive"), lead='":'), LABELS)

    assert found == pytest.approx({"positive": 0.8, "neutral": 0.1, "negative": 0.1})


def test_a_label_that_begins_like_another_is_told_apart_by_its_end() -> None:
    end = entry('"', {'"': 0.9, " plus": 0.1})
    tokens = [entry('{"label": "'), entry("up"), end, entry("}")]

    found = label_probabilities(tokens, ["up", "up plus"])

    assert found == pytest.approx({"up": 0.9, "up plus": 0.1})


def test_the_label_after_a_rationale_that_quotes_the_key_is_the_one_read() -> None:
    reasons = entry('{"rationale": "it says \\"label\\": \\"negative\\" \u20ac", ')
    tokens = [reasons, entry('"label": "'), entry("pos", {"pos": 0.9, "neg": 0.1}), entry('itive"')]

    found = label_probabilities(tokens, LABELS)

    assert found == pytest.approx({"positive": 0.9, "neutral": 0.0, "negative": 0.1})


@pytest.mark.parametrize("said", ["Positive.", '{"sentiment": "positive"}', '{"label": "great"}'])
def test_a_reply_that_states_no_label_has_no_probabilities(said: str) -> None:
    assert label_probabilities([entry(said)], LABELS) is None


def test_a_chosen_token_outside_the_top_still_counts() -> None:
    first = entry("neg", {"neg": 0.2, "pos": 0.6})
    first["top_logprobs"] = first["top_logprobs"][1:]

    found = label_probabilities(reply(first, entry("ative")), LABELS)

    assert found == pytest.approx({"negative": 0.25, "neutral": 0.0, "positive": 0.75})


def test_a_window_of_the_reply_gives_the_same_probabilities() -> None:
    first = entry("ne", {"ne": 0.6, "p": 0.4})
    tokens = [
        entry('{"rationale": "because", "'),
        *[entry('label": "'), first, entry("u", {"u": 0.5, "g": 0.5}), entry('tral", "conf')],
        *[entry('idence": '), entry("0.9}")],
    ]

    window = label_window(tokens)

    assert [t["token"] for t in window] == [
        *['{"rationale": "because", "', 'label": "', "ne", "u", 'tral", "conf'],
    ]
    assert label_probabilities(window, LABELS) == label_probabilities(tokens, LABELS)


def test_a_reply_without_a_label_keeps_no_tokens() -> None:
    assert label_window([entry("Positive.")]) == []


@given(
    cuts=st.lists(st.integers(1, 8), min_size=0, max_size=4),
    label=st.sampled_from(LABELS),
    odds=st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3),
)
def test_probabilities_sum_to_one_however_the_label_is_cut(
    cuts: list[int], label: str, odds: list[float]
) -> None:
    marks = sorted({0, len(label), *(cut for cut in cuts if cut < len(label))})
    pieces = [label[a:b] for a, b in itertools.pairwise(marks)]
    others = {name: p for name, p in zip(LABELS, odds, strict=True) if name != label}

    found = label_probabilities(
        reply(*(entry(piece, {**others, piece: odds[LABELS.index(label)]}) for piece in pieces)),
        LABELS,
    )

    assert found is not None
    assert sum(found.values()) == pytest.approx(1.0)
    assert min(found.values()) >= 0
