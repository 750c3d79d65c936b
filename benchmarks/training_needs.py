"""
What the shipped configs need on a GPU, computed from their shapes. Nothing is run or measured.

    python -m benchmarks.training_needs configs/fpb/flan-t5-small.yaml configs/fpb/gpt2.yaml ...

Memory of a training is the sum of
- weights: 4 bytes each where all are trained, 2 under an adapter in bf16, 4.127 bits under NF4 with
  double quantisation (Dettmers et al. 2023, section 3; embedding and head stay in bf16);
- for every trained weight 4 bytes of gradient and 8 of AdamW's moments (2 with 8-bit AdamW), and
  4 of an adapter itself;
- activations by Korthikanti et al. 2022 (section 4.1), 34 bytes per token, layer and unit of width
  at 16 bits, twice that in fp32; with gradient checkpointing 2 bytes, and one layer in full;
- logits in fp32, three times, at the target positions alone (student/models/scores.py);
for the longest micro-batch; plus 1 GB for the CUDA context, kernels and fragmentation.

A finished student is judged in the same job. That takes
- the weights as trained (student/runtime.py: adapters in fp32 over the base above, else fp32);
- for labels, one layer's activations of a batch of 1,024 tokens (student/scoring.py);
- for rationales, the keys and values of 32 of the longest texts (bf16 under an adapter, else fp32)
  and three times their logits in fp32 at one position.
GPU memory is the larger of the two.

Time is floating-point operations (6 per weight and token; 4 where weights are frozen; 2 more with
checkpointing; embedding and head at their positions only) at a third of an A100's 312 TFLOP/s, at
most, and at least 2.5 ms of kernel launches per layer and micro-batch: good to a factor of two.
Text lengths are those of the Financial PhraseBank with Claude's rationales: 33 T5 tokens a
sentence, 171 at most; 21 a rationale, 40 at most. 3,271 training texts (a tenth of FinGPT's 3,634
is for validation).
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.shapes import SHAPES, random_model
from common.config import load_config
from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from student.defaults import Hyperparameters, hyperparameters
from student.scoring import MOST_TOKENS

TEXTS, SENTENCE, LONGEST, RATIONALE, LONGEST_RATIONALE = 3271, 33, 171, 21, 40
FINGPT_PROMPT = 30
NF4_BYTES = 4.127 / 8
PREDICTED = 32  # texts at once: evaluation.batch_size
OVERHEAD = 1e9
FLOPS = 312e12 / 3
LAUNCH_SECONDS = 2.5e-3


@dataclass(frozen=True)
class Needs:
    """
    Parameters, bytes and seconds of one training and of judging its student.

    `weights`: those of the model, without adapters; `prediction`: judging; `total`: the larger of
    training and judging.
    """

    parameters: int
    weights: float
    prediction: float
    total: float
    seconds: float


def needs(student: StudentConfig, training: TrainingConfig) -> Needs:
    """Estimate one training; see the module docstring. Raises KeyError for an unknown shape."""
    shape = student.model.rpartition("/")[2].lower()
    model = random_model(shape, "meta")
    if model.config.model_type == "t5":  # Flan-T5 is untied, transformers 5 calls every T5 tied
        model.lm_head = torch.nn.Linear(
            model.config.d_model, model.config.vocab_size, bias=False, device="meta"
        )
    count = sum(p.numel() for p in model.parameters())
    table, width, layers = _sizes(model)
    adapters = _adapters(model, student) if student.lora else 0
    linear = count - table
    chosen = hyperparameters(student, training)
    weights = 4.0 * count
    if student.lora:
        weights = (linear * NF4_BYTES if student.quantization else linear * 2.0) + table * 2.0
    trained = adapters or count
    moments = 2.0 if chosen.optimizer == "paged_adamw_8bit" else 8.0
    state = trained * (4.0 + moments) + adapters * 4.0
    tokens, targets = _longest(student, training)
    micro = chosen.micro_batch_size
    unit = (34 if training.precision == "bf16" else 68) * width * tokens * micro
    kept = 2 * width * tokens * micro * layers + unit if chosen.gradient_checkpointing else 0
    logits = 12.0 * micro * targets * model.config.vocab_size
    if student.architecture == "classifier":
        logits = 0.0
    training_bytes = weights + state + (kept or unit * layers) + logits + OVERHEAD
    judging = _prediction(model, student, training, weights + 4.0 * adapters)
    seconds = _seconds(linear, layers, chosen, student, training)
    return Needs(count, weights, judging, max(training_bytes, judging), seconds)


def _prediction(
    model: Any, student: StudentConfig, training: TrainingConfig, weights: float
) -> float:
    """Bytes to score labels and to write rationales with a finished student as trained."""
    config = model.config
    _, width, layers = _sizes(model)
    half = bool(student.lora) and training.precision == "bf16"
    scoring = (34.0 if half else 68.0) * width * MOST_TOKENS
    writing = 0.0
    if training.teaches_rationales(student.architecture):
        heads = config.num_attention_heads
        shared = getattr(config, "num_key_value_heads", heads) / heads
        cache = 2 * (2 if half else 4) * layers * width * shared
        tokens, _ = _longest(student, training)
        writing = PREDICTED * (cache * tokens + 12.0 * config.vocab_size)
    return weights + max(scoring, writing) + OVERHEAD


def _sizes(model: Any) -> tuple[int, int, int]:
    tables = {id(m): m for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m}
    weights = {id(m.weight): m.weight.numel() for m in tables.values()}
    config = model.config
    layers = config.num_hidden_layers * (2 if config.is_encoder_decoder else 1)
    return sum(weights.values()), config.hidden_size, layers


def _adapters(model: Any, student: StudentConfig) -> int:
    assert student.lora
    head, targets, total = model.get_output_embeddings(), student.lora.targets, 0
    for name, part in model.named_modules():
        wanted = targets == "all-linear" or name.rsplit(".", 1)[-1] in targets
        if part is not head and wanted and type(part).__name__ in ("Linear", "Conv1D"):
            total += student.lora.rank * sum(part.weight.shape)
    return total


def _example(student: StudentConfig, explained: bool, text: int, reason: int) -> tuple[int, int]:
    """(tokens through the model, target tokens) of an example, with what is written beside it."""
    if student.prompt == "fingpt":
        text += FINGPT_PROMPT
    contexts = 1
    if student.architecture == "seq2seq" and student.task_signal == "prefix":
        contexts, text = 1 + explained, text + 3
    branches = (reason + 4) * explained + 4
    return contexts * text + branches, (reason + 1) * explained + 2


def _longest(student: StudentConfig, training: TrainingConfig) -> tuple[int, int]:
    """The larger counts of the longest example and, where texts are copied, the longest copy."""
    explained = training.teaches_rationales(student.architecture)
    longest = _example(student, explained, LONGEST, LONGEST_RATIONALE)
    if not training.copying:
        return longest
    whole = min(LONGEST, student.max_rationale_tokens)  # a longer one is cut to be read and written
    tokens, targets = _example(student, True, whole, whole)
    return max(longest[0], tokens), max(longest[1], targets)


def _seconds(
    linear: int,
    layers: int,
    chosen: Hyperparameters,
    student: StudentConfig,
    training: TrainingConfig,
) -> float:
    explained = training.teaches_rationales(student.architecture)
    each, _ = _example(student, explained, SENTENCE, RATIONALE)
    tokens = training.max_tokens or training.epochs * TEXTS * each
    copied, _ = _example(student, True, SENTENCE, SENTENCE)
    tokens += training.copying.epochs * TEXTS * copied if training.copying else 0
    per_weight = 4 if student.lora else 6
    per_weight += 2 * chosen.gradient_checkpointing
    launches = math.ceil(tokens / each / chosen.micro_batch_size) * layers * LAUNCH_SECONDS
    launches *= 1 + bool(student.quantization)  # weights are unpacked before every product
    return tokens * linear * per_weight / FLOPS + launches


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("configs", nargs="+", type=Path)
    print(
        "| config | system | parameters | weights GB | judging GB | GPU memory GB | A100 minutes |"
    )
    print("|---|---|---|---|---|---|---|")
    for path in parser.parse_args().configs:
        for name, (student, training) in load_config(path).trained_systems.items():
            if student.model.rpartition("/")[2].lower() not in SHAPES:
                continue
            found = needs(student, training)
            print(
                f"| {path.name} | {name} | {found.parameters / 1e6:,.0f} M | "
                f"{found.weights / 1e9:.1f} | {found.prediction / 1e9:.1f} | "
                f"{found.total / 1e9:.1f} | {found.seconds / 60:.0f} |"
            )


if __name__ == "__main__":
    main()
