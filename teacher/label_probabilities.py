"""Label probabilities from the token probabilities of a reply that is a JSON object."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

Entry = Mapping[str, Any]
_VALUE = re.compile(rb'(?<!\\)"label"\s*:\s*"')


def label_probabilities(entries: Sequence[Entry], labels: Sequence[str]) -> dict[str, float] | None:
    """
    The probability of every label at the place where the reply states one; None where it
    states none of them.

    `entries` are the tokens of the reply in OpenAI's form: `token`, `bytes`, `logprob` and
    `top_logprobs` (the same, for the likeliest tokens at that place).

    A label takes several tokens ("positive" may be p-os-itive). From the value's first token
    on, an alternative gives its probability to the labels that can begin so, normalised
    over such alternatives: servers report what the model preferred before the schema's mask, so
    this is the distribution that constrained decoding draws from at temperature 1. The walk
    follows the reply until one label is left. Mass of an alternative that was not taken and
    still fits several labels is shared evenly among them; a label outside the top gets 0.
    """
    tokens = [raw_token(entry) for entry in entries]
    found = list(_VALUE.finditer(b"".join(tokens)))
    if not found:
        return None
    return _walk(entries, tokens, found[-1].end(), _ends(tuple(labels)))


@lru_cache(maxsize=16)
def _ends(labels: tuple[str, ...]) -> Mapping[str, bytes]:
    """Each label as it ends in JSON, with the closing quote."""
    return {label: json.dumps(label, ensure_ascii=False)[1:].encode() for label in labels}


def label_window(entries: Sequence[Entry]) -> list[Entry]:
    """The tokens from the key "label" to the end of its value: all `label_probabilities` reads."""
    return [entries[place] for place in label_places(entries)]


def label_places(entries: Sequence[Entry]) -> list[int]:
    """Where the tokens of `label_window` stand."""
    tokens = [raw_token(entry) for entry in entries]
    joined = b"".join(tokens)
    found = list(_VALUE.finditer(joined))
    if not found:
        return []
    quote = joined.find(b'"', found[-1].end())
    end = len(joined) if quote < 0 else quote + 1
    return places_between(tokens, found[-1].start(), end)


def places_between(tokens: Sequence[bytes], start: int, end: int) -> list[int]:
    """Which tokens reach into the bytes start..end of all joined."""
    kept, offset = [], 0
    for place, token in enumerate(tokens):
        if offset < end and offset + len(token) > start:
            kept.append(place)
        offset += len(token)
    return kept


def _walk(
    entries: Sequence[Entry], tokens: list[bytes], value: int, ends: Mapping[str, bytes]
) -> dict[str, float] | None:
    """`value` is the byte where the value begins; `ends` are the labels with closing quote."""
    mass = dict.fromkeys(ends, 0.0)
    joined, offset, weight, live = b"".join(tokens), 0, 1.0, list(ends)
    for entry, token in zip(entries, tokens, strict=True):
        start, offset = offset, offset + len(token)
        if offset <= value or not token:
            continue
        # what the rest of the reply would be from this token on, were it that label
        before, said = joined[start:value], joined[value:start]
        rest = {label: before + ends[label][len(said) :] for label in live}
        shares = _shares(_odds(entry), rest)
        if token not in shares:
            return None
        for alternative, (share, fitting) in shares.items():
            if alternative != token or len(fitting) == 1:
                for label in fitting:
                    mass[label] += weight * share / len(fitting)
        weight, live = weight * shares[token][0], shares[token][1]
        if len(live) == 1:
            return mass
    return {label: p + (weight / len(live) if label in live else 0) for label, p in mass.items()}


def _shares(
    odds: Mapping[bytes, float], rest: Mapping[str, bytes]
) -> dict[bytes, tuple[float, list[str]]]:
    """Alternatives that fit a label: their share of the probability, and the labels they fit."""
    fits = {
        alternative: [
            label
            for label, text in rest.items()
            if text.startswith(alternative) or alternative.startswith(text)
        ]
        for alternative in odds
    }
    total = sum(odds[alternative] for alternative, labels in fits.items() if labels)
    if total <= 0:
        return {}
    return {a: (odds[a] / total, labels) for a, labels in fits.items() if labels}


def _odds(entry: Entry) -> dict[bytes, float]:
    tops = entry.get("top_logprobs") or []
    odds = {raw_token(top): math.exp(top["logprob"]) for top in tops}
    odds.setdefault(raw_token(entry), math.exp(entry["logprob"]))
    return {token: p for token, p in odds.items() if token}


def raw_token(entry: Entry) -> bytes:
    """A token's bytes, its text's where the server gives none."""
    given = entry.get("bytes")
    return bytes(given) if given else str(entry["token"]).encode()
