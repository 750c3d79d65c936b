"""Whether the reasons of an answer are reasons: length, language, echo, contradiction."""

import re
from typing import Literal

from common.labels import LabelSet
from common.records import Reason

LEAST_WORDS = 3
_ECHO_SPAN = 10
_MARKUP = ("[INST]", "[/INST]", "<<SYS>>", "<|start_header_id|>", "<|im_start|>")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")  # noqa: RUF001


def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# The words an English sentence can hardly do without.
_ENGLISH = _word_set(
    """
    a about after all also an and any are as at be been being but by can could despite does
    due for from had has have how if in indicates indicating into is it its may more most no
    not of on or over s so such than that the their there these they this to up was were
    which while will with without would
    """
)
# Words of other languages that are no English ones: which language a text is in shows in these.
_FOREIGN = _word_set(
    """
    der das und ist nicht ein eine auf mit von den dem für wird le les des une est et que
    pour dans sur du el los las para con por del se il che di della gli och att det som är av
    på ja sekä oli het een van niet
    """
)
# A sentence with one of these states no plain verdict ("neither positive nor negative",
# "could be seen as positive", "positive, but the effect is small").
_UNDECIDED = _word_set(
    """
    not no neither nor without never cannot isn't doesn't don't can't nothing or but however
    although though despite while whereas if unless whether may might could would can less
    than instead rather only merely any lacks lack
    """
)
_ADVERB = "clearly|therefore|thus|overall|considered|seen as|generally|usually|very|strongly|likely"
_STATES = "is|are|as|be|was|indicates?|implies|expresses|conveys|shows?|suggests?|sentiment:|label:"


class RationaleCheck:
    """The checks of one task's rationales, prepared once."""

    def __init__(self, labels: LabelSet, prompt: str, language: Literal["en", "any"] = "en"):
        self._language = language
        self._prompt_spans = _spans(_words(prompt))
        names = "|".join(re.escape(name) for name in sorted(labels.names, key=len, reverse=True))
        self._name = re.compile(rf"\b(?:{names})\b", re.I)
        self._verdict = re.compile(
            rf"\b(?:{_STATES})\s+(?:(?:{_ADVERB}|an?|the)\s+)*[\"'“]?(?P<label>{names})\b",
            re.I,
        )

    def fault(self, rationale: str, label: str, text: str) -> tuple[Reason, str] | None:
        """The first thing wrong with `rationale` as reasons for `label` of `text`, or None."""
        words = _words(rationale)
        if len(words) < LEAST_WORDS:
            return Reason.RATIONALE_LENGTH, f"its rationale has fewer than {LEAST_WORDS} words."
        if self._echoes(rationale, words, text):
            return Reason.ECHO, "its rationale only repeats what was asked."
        if self._language == "en" and not _is_english(rationale, words):
            return Reason.RATIONALE_LANGUAGE, "its rationale is not in English."
        other = self._contradicting(rationale, label)
        if other:
            return Reason.CONTRADICTION, f'its rationale argues for "{other}", not for "{label}".'
        return None

    def _echoes(self, rationale: str, words: list[str], text: str) -> bool:
        if any(mark in rationale for mark in _MARKUP):
            return True
        # equal words need equal letters, give or take punctuation: most texts need no second look
        if abs(len(rationale) - len(text)) <= len(text) // 3 and words == _words(text):
            return True
        return bool(self._prompt_spans and _spans(words) & self._prompt_spans)

    def _contradicting(self, rationale: str, label: str) -> str | None:
        """
        A label other than `label` that the rationale states as its verdict, or None.

        A label's name also serves as an ordinary word ("positive cash flow", "neither positive
        nor negative"), so only a plain verdict counts, and none where the rationale names its own
        label as well: then it weighs both sides.
        """
        if self._name.search(rationale) is None:
            return None
        if label.lower() in self._named(rationale) or _UNDECIDED.intersection(_words(rationale)):
            return None
        stated = {found["label"].lower() for found in self._verdict.finditer(rationale)}
        return stated.pop() if len(stated) == 1 else None

    def _named(self, rationale: str) -> set[str]:
        return {name.lower() for name in self._name.findall(rationale)}


def _is_english(rationale: str, words: list[str]) -> bool:
    if not rationale.isascii():
        letters = [c for c in rationale if c.isalpha()]
        if sum(c.isascii() for c in letters) < 0.8 * len(letters):
            return False
    foreign = sum(word in _FOREIGN for word in words)
    return foreign < 2 or foreign <= sum(word in _ENGLISH for word in words)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _spans(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + _ECHO_SPAN]) for i in range(len(words) - _ECHO_SPAN + 1)}
