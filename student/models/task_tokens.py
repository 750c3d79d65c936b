"""The ids that start and end a student's decodings, and room for them in its vocabulary."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from common.config.student import StudentConfig
from common.errors import StudentError
from student.encoding import TaskTokens
from student.tokens import add_start_tokens, start_tokens


def task_tokens(
    config: StudentConfig, model: Any, tokenizer: PreTrainedTokenizerBase
) -> TaskTokens:
    """
    The ids a student decodes with; the model is told, and grows where its vocabulary must.

    Raises StudentError for adapters beside new tokens, whose rows they would freeze at random.
    """
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    if config.architecture != "seq2seq":
        return TaskTokens(0, 0, end, pad)
    start = _decoder_start(model, tokenizer)
    # An encoder's position 0 is a sink, blind to its token and nearly to its neighbours: nothing
    # may be decoded from it, with either signal.
    lead = start if model.config.model_type == "encoder-decoder" else None
    if config.task_signal == "prefix":
        return TaskTokens(start, start, end, pad, lead)
    reserved = start_tokens(tokenizer)
    if reserved is None:
        if config.lora:
            raise StudentError(
                f"student.lora: '{config.model}' has no reserved tokens for task_signal: decoder, "
                "and adapters would freeze the rows of new ones at random; expected task_signal: "
                "prefix, or no `lora:` here."
            )
        reserved = add_start_tokens(tokenizer)
        _grow(model, len(tokenizer))
    return TaskTokens(*reserved, end, pad, lead)


def _grow(model: Any, rows: int) -> None:
    """Give a model `rows` embeddings and as many logits."""
    if model.config.model_type != "encoder-decoder":
        model.resize_token_embeddings(rows)
        return
    model.encoder.resize_token_embeddings(rows)  # transformers leaves both parts to the caller
    model.decoder.resize_token_embeddings(rows)


def _decoder_start(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Set the ids a decoding needs; a warm start begins with CLS and ends with SEP."""
    start = getattr(model.config, "decoder_start_token_id", None)
    if start is None:
        start = tokenizer.cls_token_id or tokenizer.bos_token_id or tokenizer.pad_token_id
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = start
        config.pad_token_id = tokenizer.pad_token_id
        config.eos_token_id = tokenizer.eos_token_id
    return int(start)
