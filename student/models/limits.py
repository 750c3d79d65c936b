"""What a model's tables can hold: refused here, it would be an index error in the middle of use."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from common.config.student import StudentConfig
from common.errors import StudentError
from student.encoding import Encoder

POSITIONS = ("position_embeddings", "position_embedding", "embed_positions", "wpe")
# What configs call the reach of layers that do not look at everything, and such layers.
WINDOWS = ("sliding_window", "attention_chunk_size", "local_attention", "keep_window_size",
           "window_size")  # fmt: skip
NEAR = ("sliding", "chunked", "local")


def require_known_tokens(
    config: StudentConfig, model: Any, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raises StudentError where the tokenizer has ids that the model has no embedding for."""
    highest, rows = max(tokenizer.get_vocab().values()), model.get_input_embeddings().num_embeddings
    if highest < rows:
        return
    key = "tokenizer" if config.tokenizer else "model"
    raise StudentError(
        f"student.{key}: the tokenizer of '{config.tokenizer or config.model}' has token ids up to "
        f"{highest}, the model '{config.model}' only {rows} embeddings; expected the tokenizer the "
        "model was trained with: set student.tokenizer to it, or leave that out."
    )


def require_positions(config: StudentConfig, model: Any, encoder: Encoder) -> None:
    """
    Raises StudentError where texts and rationales may become longer than the model has learnt.

    Only tables of positions end; rotary and relative ones go on.
    """
    answer = _longest_answer(config, encoder)
    for name, known in _tables(model):
        if config.architecture == "causal":
            _require(config, known, config.max_input_tokens + answer, "max_input_tokens")
        elif config.architecture == "seq2seq" and "decoder" in name.split("."):
            _require(config, known, answer, "max_rationale_tokens")
        else:
            _require(config, known, config.max_input_tokens, "max_input_tokens")


def require_window(config: StudentConfig, model: Any, encoder: Encoder, row_tokens: int) -> None:
    """
    Raises StudentError where a packed row may be longer than a causal model's layers look back.

    Our block mask stands in for theirs: what lies further back would be seen in training and not
    in use. Some count a window in positions, some along the row, so no row may exceed it.
    """
    if config.architecture != "causal":
        return
    window = nearest_window(model.config)
    if window is None:
        return
    _, opening = encoder.explain_inputs("")
    labels = sum(len(branch.inputs) for branch in encoder.encode_text("").branches)
    beside = labels + len(opening) + config.max_rationale_tokens
    looks = f"and layers of the model '{config.model}' look back over {window} only"
    if config.max_input_tokens + beside > window:
        most = window - beside
        cure = f"at most {most}" if most > 0 else "a smaller student.max_rationale_tokens beside it"
        raise StudentError(
            f"student.max_input_tokens: {config.max_input_tokens} tokens and {beside} beside them "
            f"make rows of {config.max_input_tokens + beside}, {looks}; expected {cure}."
        )
    if row_tokens > window:
        raise StudentError(
            f"training.row_tokens: {row_tokens} tokens may stand in a row, {looks}; expected at "
            f"most {window}."
        )


def nearest_window(config: Any) -> int | None:
    """How many tokens the nearest-sighted layers of a model look back; None: all look at all."""
    shape = config.get_text_config()
    if getattr(shape, "use_sliding_window", True) is False:
        return None
    kinds = getattr(shape, "layer_types", None) or getattr(shape, "attention_layers", None)
    if kinds and not any(kind.startswith(NEAR) for kind in kinds):
        return None
    told = [getattr(shape, name, None) for name in WINDOWS]
    return min((size for size in told if isinstance(size, int) and size > 0), default=None)


def _longest_answer(config: StudentConfig, encoder: Encoder) -> int:
    """Tokens a decoding takes: the task word and a label, or a rationale of the most tokens."""
    if config.architecture == "classifier":
        return 0
    _, opening = encoder.explain_inputs("")
    labels = (len(branch.inputs) for branch in encoder.encode_text("").branches)
    return max(len(opening) + config.max_rationale_tokens, *labels)


def _tables(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Every learnt table of positions by its name and how many a sequence can use."""
    for name, part in model.named_modules():
        if name.rpartition(".")[2] in POSITIONS and isinstance(part, nn.Embedding):
            # BART's begins with two rows for others, RoBERTa's with those up to the padding's.
            unused = getattr(part, "offset", None)
            if unused is None:
                unused = 0 if part.padding_idx is None else part.padding_idx + 1
            yield name, part.num_embeddings - int(unused)


def _require(config: StudentConfig, known: int, needed: int, key: str) -> None:
    if needed <= known:
        return
    asked = getattr(config, key)
    beside = needed - asked
    more = f" and {beside} beside them" if beside else ""
    most = known - beside
    cure = f"at most {most}" if most > 0 else "a smaller student.max_rationale_tokens beside it"
    raise StudentError(
        f"student.{key}: {asked} tokens{more} need {needed} positions, and the model "
        f"'{config.model}' has learnt {known}; expected {cure}."
    )
