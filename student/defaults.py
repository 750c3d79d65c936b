"""Hyper-parameters per kind of student, each with its source: the one place they stand."""

from dataclasses import dataclass, replace
from typing import Literal

from common.config.student import TINY, StudentConfig
from common.config.training import TrainingConfig


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What a training runs with once every None of its config is filled in."""

    learning_rate: float
    warmup_share: float
    schedule: Literal["cosine", "linear", "constant"]
    weight_decay: float
    micro_batch_size: int
    optimizer: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    fresh_learning_rate_factor: float = 1.0
    row_tokens: int = 256
    gradient_checkpointing: bool = False


# Hsieh et al. 2023, run.py: lr 5e-5; the schedule is the Trainer's linear one. T5's own guide asks
# for 1e-4 to 3e-4 with AdamW; 1e-4 lies between and is what Flan-T5's small sizes need.
SEQ2SEQ = Hyperparameters(1e-4, 0.06, "linear", 0.0, 16)
# With the decoder's signal an example is encoded once, not twice: 32 of them take less memory than
# the authors' two passes over 16, in both precisions, and a bf16 step 12 % less time than halves.
SEQ2SEQ_DECODER = replace(SEQ2SEQ, micro_batch_size=32)
# Radford et al. 2018 (GPT), section 4.1: fine-tuning at 6.25e-5, linear decay, warm-up 0.2 %,
# weight decay 0.01; GPT-2 kept the recipe.
CAUSAL = Hyperparameters(6.25e-5, 0.03, "linear", 0.01, 16)
# Devlin et al. 2019, appendix A.3: 2e-5 to 5e-5, three epochs, warm-up 10 %, weight decay 0.01.
CLASSIFIER = Hyperparameters(5e-5, 0.1, "linear", 0.01, 16)
# Dettmers et al. 2023 (QLoRA), table 9: 2e-4 for 7B and 13B; warm-up 3 %; Hu et al. 2022: cosine
# is as good as linear. The paged optimizer only where there is a GPU to page from.
LORA = Hyperparameters(2e-4, 0.03, "cosine", 0.0, 8, optimizer="paged_adamw_8bit")
# QLoRA's own code (qlora.py) checkpoints: room is why one trains in 4 bits.
QUANTIZED = replace(LORA, gradient_checkpointing=True)
# Random weights have nothing to lose: a rate ten times that of fine-tuning.
TINY_RANDOM = Hyperparameters(1e-3, 0.06, "linear", 0.0, 16)


def hyperparameters(student: StudentConfig, training: TrainingConfig) -> Hyperparameters:
    """The defaults of this kind of student, overridden by what the config sets."""
    base = _defaults(student)
    values = {
        name: getattr(training, name)
        if getattr(training, name) is not None
        else getattr(base, name)
        for name in Hyperparameters.__slots__
    }
    return Hyperparameters(**values)


def _defaults(student: StudentConfig) -> Hyperparameters:
    if student.model == TINY:
        return replace(TINY_RANDOM, gradient_checkpointing=student.quantization is not None)
    if student.lora:
        return QUANTIZED if student.quantization else LORA
    match student.architecture:
        case "seq2seq":
            return SEQ2SEQ_DECODER if student.task_signal == "decoder" else SEQ2SEQ
        case "causal":
            return CAUSAL
        case "classifier":
            return CLASSIFIER
