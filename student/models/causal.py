"""
Decoder-only students: GPT-2, Llama and kin.

The text is read once; label and rationale follow it in the same row as two branches that cannot see
each other (block mask, positions restart). Exact against separate sequences, because the task words
stand after the text. Needs an attention that takes a mask (eager, sdpa; not flash).
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from student.batches import Batch, additive, block_mask, causal_batch
from student.encoding import IGNORE, EncodedExample
from student.models.attention import ADDITIVE
from student.models.scores import Scores, inside_adapters, only_at, target_scores


class CausalStudent(nn.Module):
    """Wraps a Hugging Face causal language model (or a PeftModel around one)."""

    def __init__(self, model: nn.Module, pad: int, row_tokens: int):
        super().__init__()
        self.model = model
        self.pad = pad
        self.row_tokens = row_tokens

    @property
    def core(self) -> Any:
        """The transformers model itself, inside adapters or not."""
        return inside_adapters(self.model)

    def collate(self, examples: Sequence[EncodedExample], soft_share: float = 0.0) -> Batch:
        """Examples as CPU tensors."""
        return causal_batch(examples, self.pad, row_tokens=self.row_tokens, soft_share=soft_share)

    def forward(self, **batch: Tensor) -> Scores:
        """Log-probabilities of all target tokens."""
        core = self.core
        mask: Tensor = block_mask(batch["owner"], batch["branch"])
        if core.config._attn_implementation in ADDITIVE:
            mask = additive(mask, core.get_input_embeddings().weight.dtype)
        with only_at(core.get_output_embeddings(), batch["targets"] != IGNORE):
            logits = core(
                input_ids=batch["row_ids"],
                attention_mask=mask,
                position_ids=batch["positions"],
                use_cache=False,
            ).logits
        return target_scores(logits, batch)
