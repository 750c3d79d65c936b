"""Scores that need an encoder: cosine of sentence embeddings, BERTScore. Imports torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from common.evaluation.counts import Floats


def sentence_similarities(
    first: Sequence[str], second: Sequence[str], encoder: str, batch_size: int = 32
) -> Floats:
    """Cosine of the mean-pooled embeddings of each pair, in [-1, 1]; shape (pairs,)."""
    tokenizer, model = _load(encoder)
    one, two = (_embed(texts, tokenizer, model, batch_size) for texts in (first, second))
    cosines: Floats = (one * two).sum(1)
    return cosines


def bert_scores(first: Sequence[str], second: Sequence[str], encoder: str) -> Floats:
    """
    BERTScore F (Zhang et al. 2020) of each pair by the bert-score package; shape (pairs,).

    From the encoder's last layer and without baseline rescaling: comparable only among scores
    of the same encoder.
    """
    from bert_score import BERTScorer

    layers = int(_load(encoder)[1].config.num_hidden_layers)
    scorer = BERTScorer(model_type=encoder, num_layers=layers, device="cpu")
    return np.asarray(scorer.score(list(first), list(second))[2], dtype=np.float64)


def _load(encoder: str) -> tuple[Any, Any]:
    if encoder.startswith((".", "/", "~")) and not (Path(encoder) / "config.json").exists():
        raise InputError(
            f"evaluation.encoder '{encoder}' is no model folder (no config.json in it); give a "
            "local encoder, a hub name, or leave it out to skip these scores."
        )
    from transformers import AutoModel, AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).float().eval()


def _embed(texts: Sequence[str], tokenizer: Any, model: Any, batch_size: int) -> Floats:
    import torch

    parts = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            list(texts[start : start + batch_size]),
            padding=True,
            truncation=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        parts.append(torch.nn.functional.normalize(mean, dim=1).numpy())
    return np.concatenate(parts).astype(np.float64)
