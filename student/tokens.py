"""
How texts, labels and rationales become token ids.

A continuation is tokenised in its context: " positive" after "predict:" is another token than
"positive" for GPT-2, and Llama's tokenizers add a space of their own at the start of a text. So
the task word loses its trailing space, the continuation gets it back, and its ids are what the
joint text has beyond the task word. A seq2seq decoder starts on nothing: its targets are tokenised
alone, as in the authors' code.
"""

from collections.abc import Sequence
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from common.errors import StudentError

# Reserved pieces that pretrained vocabularies carry unused; taken as task tokens before new ones.
RESERVED = (
    ("<|predict|>", "<|explain|>"),
    ("<extra_id_0>", "<extra_id_1>"),
    ("[unused0]", "[unused1]"),
    ("<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
)


def load_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """
    Read a tokenizer and see to its padding and end tokens.

    Raises StudentError where there is none or it cannot be read.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, revision=revision)
        tokenizer("a")
    except Exception as error:  # tokenizers raises bare Exceptions for damaged files
        raise StudentError(
            f"student.model: no tokenizer could be read from '{source}' "
            f"({type(error).__name__}: {first_line(error)}); expected tokenizer files beside the "
            "weights, or set student.tokenizer to a folder or hub name that has them."
        ) from error
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.eos_token_id is None:
        raise StudentError(
            f"student.model: the tokenizer of '{source}' has neither an end nor a separator token; "
            "expected one, so that a label or rationale can end."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer  # type: ignore[no-any-return]


def first_line(error: Exception) -> str:
    """What a library's error says, short enough for our own sentence."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else "no reason given"


def start_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int] | None:
    """Ids of two reserved tokens that start label and rationale, or None: new ones are needed."""
    known = tokenizer.get_vocab()
    for pair in RESERVED:
        if all(token in known for token in pair):
            return known[pair[0]], known[pair[1]]
    return None


def add_start_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Add the two task tokens to a vocabulary that has no reserved ones; grow the model after."""
    tokenizer.add_tokens(list(RESERVED[0]), special_tokens=True)
    known = tokenizer.get_vocab()
    return known[RESERVED[0][0]], known[RESERVED[0][1]]


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text without any special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def target_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A seq2seq decoder's target without its end token."""
    return list(tokenizer(text_target=text, add_special_tokens=False)["input_ids"])


def continuation_ids(tokenizer: PreTrainedTokenizerBase, anchor: str, text: str) -> list[int]:
    """
    Ids of `text` as it stands after `anchor` and one space.

    Where the joint tokenisation changes the anchor itself (it merges across the border), the text
    with its leading space is tokenised alone.
    """
    before = plain_ids(tokenizer, anchor)
    joint = plain_ids(tokenizer, f"{anchor} {text}")
    if before and joint[: len(before)] == before:
        return joint[len(before) :]
    return plain_ids(tokenizer, f" {text}")


def fitting_text(
    tokenizer: PreTrainedTokenizerBase, before: str, text: str, after: str, limit: int
) -> list[int]:
    """
    Ids of before + text + after with special tokens, the text cut at its end to keep `limit`.

    Raises StudentError when the words around the text alone exceed the limit.
    """
    while True:
        ids: list[int] = tokenizer(f"{before}{text}{after}", truncation=False)["input_ids"]
        if len(ids) <= limit:
            return ids
        if not text:
            break
        text = _cut(tokenizer, text, surplus=len(ids) - limit)  # shorter each time
    raise StudentError(
        f"student.max_input_tokens: {limit} tokens do not even hold the prompt around the text; "
        "raise it or shorten the task's student prompt."
    )


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, surplus: int) -> str:
    """
    The text without its last `surplus` tokens, whole characters only: shorter by one at least.

    A character of several tokens has the offsets of all of it at each, so the last token kept may
    reach behind the first one dropped.
    """
    if tokenizer.is_fast:
        offsets: Sequence[tuple[int, int]] = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )["offset_mapping"]
        keep = len(offsets) - surplus
        if keep <= 0:
            return ""
        return text[: min(offsets[keep - 1][1], offsets[keep][0], len(text) - 1)]
    length = len(plain_ids(tokenizer, text))
    return text[: max(0, int(len(text) * (length - surplus) / max(length, 1)))]
