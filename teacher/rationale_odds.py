"""What a teacher's model thought likely at each token of its rationale, from a JSON reply."""

import math
import re
from collections.abc import Sequence

from common.records import TokenOdds
from teacher.label_probabilities import Entry, places_between, raw_token

_VALUE = re.compile(rb'(?<!\\)"rationale"\s*:\s*"(?P<value>(?:[^"\\]|\\.)*)"?', re.S)


def rationale_window(entries: Sequence[Entry], most: int) -> dict[int, Entry]:
    """
    By place, the tokens from the key "rationale" to the end of its value, each with its `most`
    likeliest alternatives: all that `rationale_odds` reads.
    """
    tokens = [raw_token(entry) for entry in entries]
    found = _VALUE.search(b"".join(tokens))
    if found is None:
        return {}
    places = places_between(tokens, found.start(), found.end())
    return {place: _shortened(entries[place], most) for place in places}


def _shortened(entry: Entry, most: int) -> Entry:
    tops = sorted(entry.get("top_logprobs") or [], key=lambda top: -top["logprob"])
    return {**entry, "top_logprobs": tops[:most]}


def rationale_odds(entries: Sequence[Entry], rationale: str) -> list[TokenOdds] | None:
    """
    The tokens that lie wholly inside `rationale`, in order.

    None where the reply writes it in another way than it reads (escapes such as \\" or \\u20ac):
    its tokens are then not those of the text. Alternatives that end or escape the JSON string, and
    those that are no whole characters, are left to the rest of the distribution.
    """
    tokens, text = [raw_token(entry) for entry in entries], rationale.encode()
    found = _VALUE.search(b"".join(tokens))
    lead = found["value"].find(text) if found else -1
    if found is None or lead < 0 or found["value"].strip() != text:
        return None
    start, place, odds = found.start("value") + lead, 0, []
    for entry, token in zip(entries, tokens, strict=True):
        word = _word(token)
        if word and start <= place and place + len(token) <= start + len(text):
            odds.append(TokenOdds(start=place - start, token=word, top=_tops(entry)))
        place += len(token)
    return odds or None


def _tops(entry: Entry) -> dict[str, float]:
    words = ((_word(raw_token(top)), float(top["logprob"])) for top in entry["top_logprobs"])
    return {word: value for word, value in words if word and math.isfinite(value)}


def _word(token: bytes) -> str | None:
    """A token as text that may stand in a rationale, else None."""
    try:
        word = token.decode()
    except UnicodeDecodeError:
        return None
    return None if '"' in word or "\\" in word or "\ufffd" in word else word
