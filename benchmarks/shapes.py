"""Shapes of the real students, for random weights and for counting: nothing is downloaded."""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)


def _t5(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "t5", "d_model": width, "d_kv": 64, "d_ff": inner, "num_layers": layers,
        "num_heads": heads, "vocab_size": 32128, "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
    }  # fmt: skip


def _bert(width: int, inner: int, layers: int, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "bert", "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": 12, "vocab_size": vocabulary,
        "num_labels": 3,
    }  # fmt: skip


SHAPES: dict[str, dict[str, Any]] = {
    "flan-t5-small": _t5(512, 1024, 8, 6),
    "flan-t5-base": _t5(768, 2048, 12, 12),
    "flan-t5-large": _t5(1024, 2816, 24, 16),
    "gpt2": {"model_type": "gpt2"},
    "llama-3.1-8b": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128256, "max_position_embeddings": 8192, "tie_word_embeddings": False,
    },
    "all-minilm-l6-v2": _bert(384, 1536, 6, 30522),
    "finbert-pretrain": _bert(768, 3072, 12, 30873),
}  # fmt: skip


def config_of(shape: str, **more: Any) -> Any:
    """The transformers config of a shape."""
    values = {**SHAPES[shape], **more}
    return AutoConfig.for_model(values.pop("model_type"), **values)


def random_model(shape: str, device: str = "cpu", **more: Any) -> Any:
    """Random weights in a shape; on the device "meta" none at all: only to be counted."""
    config = config_of(shape, **more)
    kind: Any = {
        "t5": AutoModelForSeq2SeqLM,
        "gpt2": AutoModelForCausalLM,
        "llama": AutoModelForCausalLM,
        "bert": AutoModelForSequenceClassification,
    }[config.model_type]
    with torch.device(device):
        return kind.from_config(config)
