"""
An encoder-decoder from an encoder alone, warm on both sides (Rothe et al. 2020, BERT2BERT).

The decoder is a copy of the encoder with a causal mask. Its cross-attention exists in no
checkpoint; each layer's starts as a copy of that layer's self-attention: queries, keys and values
then already speak one language. The output matrix is tied to the decoder's embeddings; BERT's
small transform before it is fresh where the file has no masked-language head.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, EncoderDecoderModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

FRESH_DECODER_PARTS = ("crossattention", "cls.predictions", "lm_head")


def is_encoder_alone(config: Any) -> bool:
    """Whether a model folder holds an encoder that can become both sides."""
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_encoder_decoder


def warm_start(
    source: str, options: dict[str, Any], changes: dict[str, Any]
) -> tuple[Any, set[str], list[str]]:
    """
    Build the model in float32.

    Returns it with the names of its fresh parameters, and the weights that were expected in the
    file and are missing (cross-attention and output transform are never expected).
    """
    loader: Any = AutoModel
    encoder, report = loader.from_pretrained(
        source, config=_config(source, options, changes), output_loading_info=True, **options
    )
    missing = [k for k in report["missing_keys"] if "pooler" not in k]
    decoder_config = _config(source, options, changes)
    decoder_config.is_decoder = True
    decoder_config.add_cross_attention = True
    loader = AutoModelForCausalLM
    decoder, decoder_report = loader.from_pretrained(
        source, config=decoder_config, output_loading_info=True, **options
    )
    fresh = {k for k in decoder_report["missing_keys"] if _is_fresh(k)}
    missing += [k for k in decoder_report["missing_keys"] if not _is_fresh(k)]
    _copy_self_attention(decoder)
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    drop_pooler(model)  # its weights would only be saved and decayed
    return model, {f"decoder.{name}" for name in fresh}, missing


def drop_pooler(model: Any) -> None:
    """
    Take a warm start's unused pooler off: its folder has none, and transformers makes it anew, at
    random, whenever the folder is read.
    """
    if model.config.model_type == "encoder-decoder" and hasattr(model.encoder, "pooler"):
        model.encoder.pooler = None


def _config(source: str, options: dict[str, Any], changes: dict[str, Any]) -> Any:
    config = AutoConfig.from_pretrained(source, revision=options.get("revision"))
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def _is_fresh(name: str) -> bool:
    return any(part in name for part in FRESH_DECODER_PARTS)


@torch.no_grad()
def _copy_self_attention(decoder: nn.Module) -> None:
    """Start each cross-attention from its layer's self-attention, where the shapes allow it."""
    source = dict(decoder.named_parameters())
    for name, parameter in source.items():
        if "crossattention." in name:
            twin = source.get(name.replace("crossattention.", "attention."))
            if twin is not None and twin.shape == parameter.shape:
                parameter.copy_(twin)
