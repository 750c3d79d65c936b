"""The same functions at less cost."""

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense, T5LayerNorm
from transformers.pytorch_utils import Conv1D

from student.models.attention import quicken_attention
from student.models.conv1d import QuickConv1D
from student.models.dropout import QuickDropout
from student.models.embedding import RowEmbedding
from student.models.head import OutputHead
from student.models.t5_parts import QuickT5FeedForward, QuickT5LayerNorm

QUICKER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Dropout: QuickDropout,
    nn.Embedding: RowEmbedding,
    Conv1D: QuickConv1D,
    T5LayerNorm: QuickT5LayerNorm,
    T5DenseGatedActDense: QuickT5FeedForward,
}


def quicken(module: nn.Module) -> None:
    """
    Let a model's parts compute what they do in fewer and cheaper steps.

    Parameters, their names and what is saved stay as they are.
    """
    fuse_activations(module)
    for name, part in module.named_modules():
        quicker = QUICKER.get(type(part))
        # All decoder layers read the encoder's last norm: their gradients add up in float32.
        if quicker and not name.endswith("final_layer_norm"):
            part.__class__ = quicker
        if isinstance(part, PreTrainedModel):
            quicken_attention(part)
            quicken_head(cast(Any, part).get_output_embeddings())


def quicken_head(head: nn.Module | None) -> None:
    """Let an output head without bias add to its gradient in place."""
    if type(head) is nn.Linear and head.bias is None:
        head.__class__ = OutputHead


def fuse_activations(module: nn.Module) -> None:
    """
    Let torch compute the tanh form of GELU in one kernel where transformers composes it of eight.

    The same function (differences of rounding). T5 and GPT-2 use it in every feed-forward layer;
    training also keeps one tensor for the backward pass instead of eight.
    """
    for part in module.modules():
        for name, child in part.named_children():
            if type(child).__name__ == "NewGELUActivation":
                setattr(part, name, nn.GELU(approximate="tanh"))
