"""Spaces that a tokenizer puts round punctuation, taken out of generated text again."""

import re
from typing import Any

# What a WordPiece tokenizer makes of these, "1. 5" and "long - term", shows that it forgets spaces.
_PROBE = "1.5 long-term"

_CURRENCY = r"[$\u20ac\u00a3\u00a5]"
# Before these a minus is a sign ("of -5 %", "EUR -0.04"), after other words a hyphen ("covid-19").
_SIGNED = r"(?<=\bof)|(?<=\bto)|(?<=\bat)|(?<=\bby)|(?<=\bis)|(?<=\bwas)|(?<=\band)|(?<=\bfrom)"
_SIGNED += r"|(?<=\beur)|(?<=\busd)|(?<=\bgbp)|(?<=\bsek)|(?<=\bnok)|(?<=\bdkk)|(?<=[(,;=])|^"

_JOINS = (
    (r" ' s\b", "'s"),
    # 1. 5 -> 1.5. Where a sentence ends in a figure and the next begins with one they are joined as
    # well: rarer by far.
    (r"(?<=\d)\. (?=\d)", "."),
    # 1, 200, 000 -> 1,200,000: threes after one to three digits, so that years stay apart.
    (r"(?<![\d,.])\d{1,3}(?:, \d{3}(?!\d))+", lambda found: found[0].replace(" ", "")),
    (rf"({_SIGNED}) ?([+\u2212-]) (?=(?:{_CURRENCY} ?)?\d)", r" \2"),
    (r"(?<=\w) ([/-]) (?=\w)", r"\1"),  # 2007 / 08, 10 - 15, long - term
    (r"(?<=\d) : (?=\d)", ":"),
    (rf"({_CURRENCY}) (?=\d)", r"\1"),
    (r"(?<!')\b(us|hk|nz|c|r|s) (?=\$\d)", r"\1"),  # US$, C$; "a $" may be the article
    (r"(?<=\d) (?=%)", ""),
    (r"(?<=[(\[]) | (?=[)\];:])", ""),
    (r"(?<=\b\w) & (?=\w\b)", "&"),
)


def forgets_spaces(tokenizer: Any) -> bool:
    """Whether its decoded text differs from what was encoded by spaces, and by nothing else."""
    tokens = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    decoded = str(tokenizer.decode(tokens)).strip()
    return decoded != _PROBE and decoded.replace(" ", "") == _PROBE.replace(" ", "")


def respaced(text: str) -> str:
    """
    The text with its figures in one piece: "eur 1. 2 m, 10 % of $ 5" is "eur 1.2 m, 10% of $5".

    Where the spaces were cannot be known; the likeliest reading in financial prose is taken.
    """
    for pattern, put in _JOINS:
        text = re.sub(pattern, put, text)
    return text.strip()
