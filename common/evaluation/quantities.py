"""Figures with unit and direction, and whether those of a rationale stand in its text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_CURRENCIES = {
    "eur": "EUR", "euro": "EUR", "euros": "EUR", "€": "EUR",
    "usd": "USD", "us$": "USD", "$": "USD", "dollar": "USD", "dollars": "USD",
    "gbp": "GBP", "£": "GBP", "pound": "GBP", "pounds": "GBP",
    "jpy": "JPY", "¥": "JPY", "yen": "JPY",
    "sek": "SEK", "nok": "NOK", "dkk": "DKK", "chf": "CHF", "cny": "CNY", "inr": "INR",
}  # fmt: skip
_SCALES = {
    "thousand": 1e3, "k": 1e3,
    "million": 1e6, "millions": 1e6, "mn": 1e6, "mln": 1e6, "m": 1e6,
    "billion": 1e9, "billions": 1e9, "bn": 1e9, "bln": 1e9, "b": 1e9,
    "trillion": 1e12, "tn": 1e12,
}  # fmt: skip
_UNITS = {
    "%": "%", "percent": "%", "per cent": "%", "pct": "%", "pc": "%",
    "percentage points": "points", "percentage point": "points", "%-points": "points",
    "basis points": "bp", "basis point": "bp", "bps": "bp", "bp": "bp",
}  # fmt: skip


def _either(words: Mapping[str, object]) -> str:
    ordered = sorted(words, key=len, reverse=True)
    return "|".join(re.escape(w) + (r"(?!\w)" if w[-1].isalnum() else "") for w in ordered)


_BEFORE = "|".join(re.escape(w) for w in sorted(_CURRENCIES, key=len, reverse=True))
_FIGURE = re.compile(
    rf"(?:(?<!\w)(?P<before>{_BEFORE})\s*)?"
    r"(?<![\w.,])(?<!\d[.,])(?P<sign>[-\u2212+])?"
    r"(?P<number>\d{1,3}(?:[, \u00a0]\d{3})+(?:\.\d+)?(?!\d)|\d+(?:[.,]\d+)?)"
    rf"(?:\s*-?\s*(?P<scale>{_either(_SCALES)}))?"
    rf"(?:\s*-?\s*(?P<unit>{_either(_UNITS)}|(?:{_either(_CURRENCIES)})(?!\s*\d)))?"
    r"(?!\w)",
    re.I,
)
_GLUED = re.compile(
    rf"\b({'|'.join(w for w in _CURRENCIES if w.isalpha() and len(w) == 3)})(?=\d)", re.I
)
_APART = re.compile(
    r"(?<=\d) (?=\.\d|,\d{3}(?!\d))"
)  # "EUR74 .8 m", as Financial PhraseBank has it
_CLAUSE_END = re.compile(r"[;:]|[.,](?!\d)|\bwhile\b|\bwhereas\b|\bbut\b", re.I)


@dataclass(frozen=True)
class Figure:
    """A number in base units, its unit ("%", "EUR", "" for none) and direction (+1, -1, 0)."""

    value: float
    unit: str
    direction: int = 0


def figures_in(text: str, direction_of: Mapping[str, int]) -> list[Figure]:
    """
    Every figure of `text`: "EUR 3.4 mn" is 3,400,000 EUR.

    The direction is that of the nearest word of direction in the same clause ("fell by 12 %").
    """
    spaced = _GLUED.sub(r"\1 ", _APART.sub("", text))
    return [
        Figure(_value(match), _unit(match), _direction(spaced, match, direction_of))
        for match in _FIGURE.finditer(spaced)
    ]


def stands_in(figure: Figure, source: list[Figure]) -> bool:
    """
    Whether the source states this figure: same value, and no other unit or direction.

    What one side leaves open (no unit, no direction) does not contradict the other.
    """
    return any(
        abs(figure.value - other.value) <= 1e-9 * max(abs(figure.value), 1)
        and (not figure.unit or not other.unit or figure.unit == other.unit)
        and (not figure.direction or not other.direction or figure.direction == other.direction)
        for other in source
    )


def number_accuracy(rationale: str, text: str, direction_of: Mapping[str, int]) -> float | None:
    """Share of the rationale's figures that stand in the text; None for one without figures."""
    stated = figures_in(rationale, direction_of)
    if not stated:
        return None
    source = figures_in(text, direction_of)
    return sum(stands_in(figure, source) for figure in stated) / len(stated)


def _value(match: re.Match[str]) -> float:
    digits = re.sub(r"[, \u00a0](?=\d{3}(?!\d))", "", match["number"]).replace(",", ".")
    sign = -1.0 if match["sign"] in ("-", "\u2212") else 1.0
    return sign * float(digits) * _SCALES.get((match["scale"] or "").lower(), 1.0)


def _unit(match: re.Match[str]) -> str:
    after, before = (match["unit"] or "").lower(), (match["before"] or "").lower()
    return _UNITS.get(after) or _CURRENCIES.get(after) or _CURRENCIES.get(before, "")


def _direction(text: str, match: re.Match[str], direction_of: Mapping[str, int]) -> int:
    before = _CLAUSE_END.split(text[: match.start()])[-1]
    after = _CLAUSE_END.split(text[match.end() :], maxsplit=1)[0]
    near = [
        (distance, direction_of[word])
        for words in (_words(before)[::-1], _words(after))
        for distance, word in enumerate(words)
        if word in direction_of
    ]
    return min(near, default=(0, 0), key=lambda found: found[0])[1]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
