"""
Which of a student's target tokens its teacher's token probabilities speak of.

Tokens are matched by place and text: a target token is taught where the teacher's token covers the
same bytes of the rationale. At the borders they seldom do (the teacher writes `"Profit` and `."}`
inside JSON, the student ` Profit` and `.`): those tokens keep their plain loss.
"""

import math
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from common.errors import StudentError
from common.records import TokenOdds

Odds = tuple[tuple[int, float], ...]  # token id, log-probability; empty: nothing is known
BORDERS = 2  # the first token of a rationale and the last before its end
LEAST_ALIGNED = 0.9
_LEAST_REST = 1e-9


def vocabulary_bytes(tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """What each token stands for in a text, special tokens aside, as UTF-8."""
    known, special = tokenizer.get_vocab(), set(tokenizer.all_special_ids)
    letters = _byte_letters() if "Ġ" in known or "Ġt" in known else None
    found = {}
    for piece, number in known.items():
        if number not in special:
            found[number] = _piece_bytes(piece, letters)
    return found


def taught_targets(
    vocabulary: Mapping[int, bytes],
    ids_of: Mapping[bytes, int],
    answer: Sequence[int],
    rationale: str,
    odds: Sequence[TokenOdds],
) -> tuple[Odds, ...]:
    """
    For each id of `answer` (the tokenised rationale, cut short or not) what the teacher says.

    Alternatives that are no token of this vocabulary count into the rest.
    """
    text = rationale.encode()
    told = {one.start: one for one in odds}
    joined = b"".join(vocabulary.get(token, b"\xff") for token in answer)
    place = -1 if joined[:1] == b" " and text[:1] != b" " else 0
    if not text.startswith(joined[-place:]):
        return ((),) * len(answer)
    taught: list[Odds] = []
    for token in answer:
        one = told.get(place)
        same = one is not None and one.token.encode() == vocabulary[token]
        taught.append(_odds(one, ids_of) if one is not None and same else ())
        place += len(vocabulary[token])
    return tuple(taught)


def with_rest(odds: Odds, width: int) -> tuple[list[int], list[float]]:
    """Ids (width) and log-probabilities (width + 1), the last of all other tokens together."""
    spare = width - len(odds)
    ids = [token for token, _ in odds] + [odds[0][0]] * spare
    rest = max(_LEAST_REST, 1 - sum(math.exp(p) for _, p in odds))
    return ids, [*(p for _, p in odds), *[-math.inf] * spare, math.log(rest)]


def require_aligned(counts: Sequence[tuple[int, int]]) -> None:
    """
    `counts`: of every rationale that came with odds, its tokens and how many of them are taught.

    Raises StudentError where there is none, or where the teacher's tokens are not the student's.
    """
    if not counts:
        raise StudentError(
            "training.token_distillation: no training pair holds its teacher's token "
            "probabilities; set rationale_logprobs on a vllm teacher and label again, or leave "
            "token_distillation out."
        )
    inner = sum(max(1, tokens - BORDERS) for tokens, _ in counts)
    known = sum(taught for _, taught in counts)
    if known < LEAST_ALIGNED * inner:
        raise StudentError(
            f"training.token_distillation: only {known} of {inner} rationale tokens are the same "
            f"for teacher and student, expected at least {LEAST_ALIGNED:.0%}; choose a student "
            "with the teacher's tokenizer, or leave token_distillation out."
        )


def _odds(one: TokenOdds, ids_of: Mapping[bytes, int]) -> Odds:
    pairs = ((ids_of.get(text.encode()), value) for text, value in one.top.items())
    return tuple((token, value) for token, value in pairs if token is not None)


def _piece_bytes(piece: str, letters: Mapping[str, int] | None) -> bytes:
    if letters is not None:
        known = [letters.get(letter) for letter in piece]
        return b"" if None in known else bytes(n for n in known if n is not None)
    if len(piece) == 6 and piece.startswith("<0x"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()


def _byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in byte-level vocabularies (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
