"""Which model is trained: architecture x weights x optional LoRA x optional quantisation."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from common.config.base import Section

TINY = "tiny-random"
TINY_POSITIONS = 1024  # of the families that have a table of them


class TinyShape(Section):
    """Shape of a `tiny-random` student: random weights, no download; never evidence of quality."""

    family: Literal["t5", "gpt2", "llama", "bert"] = "t5"
    hidden: int = Field(default=64, gt=0)
    layers: int = Field(default=2, gt=0)
    heads: int = Field(default=4, gt=0)
    feed_forward: int = Field(default=128, gt=0)
    vocabulary: int = Field(default=2000, gt=0)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        """A head of T5 is as wide as it likes; llama turns its numbers in pairs."""
        least = 2 if self.family == "llama" else 1
        whole = self.family == "t5" or self.hidden % (least * self.heads) == 0
        if self.heads > self.hidden or not whole:
            times = f"{least} * heads" if least > 1 else "heads"
            wanted = "at least heads" if self.family == "t5" else f"a multiple of {times}"
            raise ValueError(
                f"hidden {self.hidden} cannot be shared by heads: {self.heads} in family "
                f"{self.family}; expected {wanted}: change one of them"
            )
        return self


class LoraSection(Section):
    """Low-rank adapters (Hu et al. 2022). Defaults: QLoRA-style, all linear layers."""

    rank: int = Field(default=16, gt=0)
    alpha: int = Field(default=32, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"

    @field_validator("targets", mode="before")
    @classmethod
    def _some_layers(cls, targets: object) -> object:
        names = targets if isinstance(targets, list) else []
        named = bool(names) and all(isinstance(name, str) for name in names)
        if targets != "all-linear" and not named:
            raise ValueError("expected all-linear, or the names of layers such as [q_proj, v_proj]")
        return targets


class StudentConfig(Section):
    """
    A student or a trained baseline.

    `model`: a hub name, a local folder, or `tiny-random` with its shape under `tiny`. A folder
    that holds an encoder alone becomes, as `seq2seq`, an encoder-decoder warm-started on both
    sides (Rothe et al. 2020). `task_signal` (seq2seq): `prefix` puts the task word before the
    text as in Hsieh et al. 2023; `decoder` encodes the text once and starts each decoding
    with a task token. `prompt` names one of the task's student prompts. `attention` None: the
    faster one of the device. Weights that a model folder lacks would start random; they are
    refused unless `allow_fresh_weights` (a classifier's head and the cross-attention of a warm
    start are fresh by nature and always allowed).
    """

    architecture: Literal["seq2seq", "causal", "classifier"]
    model: str
    revision: str | None = None
    tokenizer: str | None = None
    tiny: TinyShape | None = None
    lora: LoraSection | None = None
    quantization: Literal["nf4"] | None = None
    task_signal: Literal["prefix", "decoder"] = "prefix"
    prompt: str = "default"
    max_input_tokens: int = Field(default=256, gt=0)
    max_rationale_tokens: int = Field(default=96, gt=0)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    attention: Literal["eager", "sdpa"] | None = None
    allow_fresh_weights: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.model == TINY) != (self.tiny is not None):
            raise ValueError(f"`tiny` gives the shape of model: {TINY}; set both or neither")
        if self.quantization and not self.lora:
            raise ValueError("quantized weights cannot be trained: add a `lora:` section")
        if self.task_signal == "decoder" and self.architecture != "seq2seq":
            raise ValueError("task_signal: decoder needs a decoder of its own: seq2seq only")
        return self
