"""
Encoder-decoder students: T5 and kin, BART and kin, a warm-started EncoderDecoderModel.

One call gives both terms. The encoder reads every context once: two rows per example with the
prefix signal, one with the decoder signal. The decoder reads the branches of an example packed into
one row where the family's positions allow it (T5: relative; BERT: given), else a row per branch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from student.batches import Batch, additive, block_mask, context_mask, seq2seq_batch
from student.encoding import IGNORE, EncodedExample
from student.models.attention import ADDITIVE
from student.models.scores import Scores, inside_adapters, only_at, target_scores

RELATIVE_POSITIONS = ("t5", "mt5", "longt5")
GIVEN_POSITIONS = ("bert",)


class Seq2SeqStudent(nn.Module):
    """
    Wraps a Hugging Face seq2seq model (or a PeftModel around one).

    `encoder_rests`: it is read from as it is and learns nothing, but for an embedding that it
    shares with the decoder.
    """

    def __init__(self, model: nn.Module, pad: int, packed: bool | None = None):
        super().__init__()
        self.model = model
        self.pad = pad
        self.packed = can_pack(self.core) if packed is None else packed
        self.encoder_rests = False

    @property
    def core(self) -> Any:
        """The transformers model itself, inside adapters or not."""
        return inside_adapters(self.model)

    def collate(self, examples: Sequence[EncodedExample], soft_share: float = 0.0) -> Batch:
        """Examples as CPU tensors."""
        return seq2seq_batch(examples, self.pad, packed=self.packed, soft_share=soft_share)

    def forward(self, **batch: Tensor) -> Scores:
        """Log-probabilities of all target tokens."""
        core = self.core
        learning = torch.is_grad_enabled() and not self.encoder_rests
        with torch.set_grad_enabled(learning):
            encoded = core.get_encoder()(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            )
        # Handed on in the family's own form: Switch looks for its routers' logits beside them.
        states = encoded.last_hidden_state
        encoded.last_hidden_state = _lined_up(states, batch)
        chosen = batch["targets"] != IGNORE
        with only_at(_head(core), chosen):
            logits = core(
                encoder_outputs=encoded,
                decoder_input_ids=batch["row_ids"],
                use_cache=False,
                **self._masks(batch, states.dtype),
            ).logits
        return target_scores(logits, batch)

    def _masks(self, batch: Batch, dtype: torch.dtype) -> dict[str, Tensor]:
        if not self.packed:
            rows = batch["encoder_row"][:, 0]
            return {
                "attention_mask": batch["attention_mask"][rows],
                "decoder_attention_mask": (batch["owner"] > 0).long(),
            }
        own = block_mask(batch["owner"], batch["branch"])
        cross = context_mask(batch["context"], batch["attention_mask"], batch["encoder_row"])
        if _decoder_config(self.core)._attn_implementation in ADDITIVE:
            own, cross = additive(own, dtype), additive(cross, dtype)
        masks = {"attention_mask": cross, "decoder_attention_mask": own}
        if self.core.config.model_type == "encoder-decoder":
            masks["decoder_position_ids"] = batch["positions"]
        return masks


def _decoder_config(core: Any) -> Any:
    # A warm start's joint config says nothing true about its parts' attention.
    return core.decoder.config if core.config.model_type == "encoder-decoder" else core.config


def can_pack(core: Any) -> bool:
    """Whether several branches may stand in one decoder row of this model."""
    config = core.config
    if config.model_type == "encoder-decoder":
        return config.decoder.model_type in GIVEN_POSITIONS
    return config.model_type in RELATIVE_POSITIONS


def _lined_up(states: Tensor, batch: Batch) -> Tensor:
    """Encoder states (rows, S, H) as the decoder rows want them: (R, contexts * S, H)."""
    rows = batch["encoder_row"]
    if rows.shape[1] == 1 and torch.equal(
        rows[:, 0], torch.arange(len(states), device=rows.device)
    ):
        return states
    return states[rows].flatten(1, 2)


def _head(core: Any) -> nn.Module:
    if core.config.model_type == "encoder-decoder" and hasattr(core.decoder, "cls"):
        return core.decoder.cls  # type: ignore[no-any-return]
    return core.get_output_embeddings()  # type: ignore[no-any-return]
