"""How a student is trained."""

from typing import Literal, Self

from pydantic import Field, model_validator

from common.config.base import Section, Seed
from common.records import unset


class SoftLabels(Section):
    """
    Mix of the teachers' label probabilities into the label term (Hinton et al. 2015).

    `from_confidence`: where a teacher gave no probabilities, the confidence it stated stands for
    its label and the rest for the others (student/confidence.py).
    """

    share: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0)
    from_confidence: bool = False


class TokenDistillation(Section):
    """
    Mix of the teacher's token probabilities into the rationale term (Hinton et al. 2015), for a
    student with its teacher's tokenizer: (1 - share) * cross-entropy + share * T^2 * KL, the KL
    over the teacher's top tokens and one bucket for all others. Tokens at which the teacher's
    probabilities are not known keep their cross-entropy whole.
    """

    share: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0)


class Copying(Section):
    """
    Epochs before the others in which a seq2seq student writes out the text it reads (sequence
    autoencoding, Dai and Le 2015): a fresh cross-attention learns to look at it. `labels`: they are
    learnt meanwhile, as beside a rationale of weight 1; an encoder that learns without them forgets
    what they need, one that `rests` stays as it is and copies worse (docs/results.md).
    """

    epochs: float = Field(default=4.0, gt=0)
    encoder: Literal["rests", "learns"] = "learns"
    labels: bool = True


class TrainingConfig(Section):
    """
    Step-by-step distillation: loss = label + rationale_weight * rationale (Hsieh et al. 2023,
    eq. 3), each a mean over its own target tokens.

    `rationale_weight` is the paper's lambda = (1 - alpha) / alpha of the authors' code; 0 trains
    on labels only. `labels: gold` takes the data set's own labels (no rationales).
    None means the default of the architecture (student/defaults.py). `batch_size` is the effective
    one; `micro_batch_size` what goes through the model at once. Steps are optimizer updates.
    `prompt_loss: as_published` repeats FinGPT's published bug (pad id instead of -100).
    `fresh_learning_rate_factor` multiplies the rate of weights that no checkpoint brought along
    (a classifier's head, the cross-attention of a warm start). `max_tokens` replaces the epochs:
    as many steps as put about that many tokens through the model, so that trainings with texts of
    unlike length can be compared at equal tokens seen. `example_weight: confidence` multiplies each
    example's weight by the teachers' confidence in its label (1 where none is stated, as for gold).
    `report_to` names the Trainer's reporters (tensorboard, mlflow, wandb); empty means TensorBoard,
    [none] nothing. `gradient_checkpointing` unset: on for 4-bit students alone.
    `epochs`, `max_steps` and `max_tokens` do not count what `copying` puts before them.
    `devices`: so many processes, one each, with equal shares of a batch.
    `length_pool`: so many batches are sorted by length together and then shuffled (1: purely random
    batches). `row_tokens`: causal students pack several examples into rows of about this many
    tokens.
    """

    labels: Literal["teacher", "gold"] = "teacher"
    rationale_weight: float = Field(default=1.0, ge=0)
    epochs: float = Field(default=3.0, gt=0)
    copying: Copying | None = Field(default=None, exclude_if=unset)
    max_steps: int | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=0, exclude_if=unset)
    learning_rate: float | None = Field(default=None, gt=0)
    warmup_share: float | None = Field(default=None, ge=0, lt=1)
    schedule: Literal["cosine", "linear", "constant"] | None = None
    weight_decay: float | None = Field(default=None, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=32, gt=0)
    micro_batch_size: int | None = Field(default=None, gt=0)
    precision: Literal["float32", "bf16"] = "float32"
    optimizer: Literal["adamw", "paged_adamw_8bit"] | None = None
    gradient_checkpointing: bool | None = None
    evaluations: int = Field(default=6, ge=0)
    patience: int = Field(default=3, gt=0)
    min_improvement: float = Field(default=0.001, ge=0)
    checkpoint_every_steps: int = Field(default=50, gt=0)
    example_weight: Literal["none", "confidence"] = "none"
    soft_labels: SoftLabels | None = None
    token_distillation: TokenDistillation | None = Field(default=None, exclude_if=unset)
    prompt_loss: Literal["masked", "as_published"] = "masked"
    fresh_learning_rate_factor: float | None = Field(default=None, gt=0)
    length_pool: int = Field(default=8, gt=0)
    row_tokens: int | None = Field(default=None, gt=0)
    report_to: list[str] = Field(default_factory=list)
    devices: int = Field(default=1, gt=0)
    seed: Seed | None = None

    def teaches_rationales(self, architecture: str) -> bool:
        """Whether it is step by step at all: gold has no rationales, a classifier learns none."""
        learnt = self.rationale_weight > 0 and self.labels == "teacher"
        return learnt and architecture != "classifier"

    @model_validator(mode="after")
    def _shared_evenly(self) -> Self:
        if over := self.batch_size % self.devices:
            below, above = self.batch_size - over, self.batch_size - over + self.devices
            near = f"{below} or {above}" if below else str(above)
            raise ValueError(
                f"batch_size {self.batch_size} cannot be shared by devices: {self.devices}; "
                f"expected a multiple of devices: set batch_size to {near}, or change devices"
            )
        return self
