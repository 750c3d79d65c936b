"""
Whether a causal model keeps branches apart that stand in one row.

Packed rows rest on two things a model must do: heed a mask of its own, and take its positions as
they are given. State-space, convolution and linear-attention layers read the row as one text,
ALiBi measures distances along it: such a model would train on another loss than ours, silently.
"""

import math
from typing import Any

import torch
from torch import Tensor

from common.errors import StudentError
from student.encoding import Branch, EncodedExample
from student.memory import is_out_of_memory
from student.models.causal import CausalStudent
from student.models.limits import nearest_window
from student.preflight import UNFIT
from student.tokens import first_line

# Compared with separate passes, loss and gradients, and found the same.
EXACT = {"biogpt", "codegen", "cohere", "gemma", "gpt2", "gpt_bigcode", "gpt_neox", "gptj",
         "granite", "llama", "olmo", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3",
         "xglm"}  # fmt: skip
# Differences that may be rounding, in standard deviations of the log-probabilities compared: of 2
# to 32 layers of attention 1e-5 were seen in float32 and 0.04 in bfloat16.
ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-4}
HALF_ROUNDING = 0.05
# Routed experts in half precision differ by more, also between passes that ought to be the same.
ABOVE_NOISE = 5.0
# Tokens of the two examples: prompt, label, rationale.
LENGTHS = ((9, 12, 8), (5, 7, 10))


def require_isolated_branches(name: str, model: Any) -> None:
    """
    Compare two short examples in one packed row with each of their branches alone.

    `name`: what the config calls the model. It is left as it was, and so are all random states.
    Raises StudentError where they differ by more than rounding, or the model fails.
    """
    kind = model.config.model_type
    window = nearest_window(model.config)
    near = window is not None and window < sum(map(sum, LENGTHS))  # refused by require_window
    if kind in EXACT or near:
        return
    if kind in UNFIT["causal"]:
        raise StudentError(_refusal(name, kind, "such a model reads the row as one text"))
    try:
        packed, noise = _differences(model)
    except Exception as error:  # a model of any family, given what it may not expect
        if is_out_of_memory(error):
            raise
        told = f"{type(error).__name__}: {first_line(error)}"
        raise StudentError(_refusal(name, kind, f"it fails there ({told})")) from error
    dtype = model.get_input_embeddings().weight.dtype
    if packed > max(ROUNDING.get(dtype, HALF_ROUNDING), ABOVE_NOISE * noise):
        raise StudentError(_refusal(name, kind, "it does not keep them apart there"))


def _refusal(name: str, kind: str, reason: str) -> str:
    return (
        f"student.model: '{name}' is of the type {kind} and cannot be trained or used as causal: "
        f"label and rationale stand in one row, and {reason}; expected a model of a family that "
        "goes by mask and positions, such as GPT-2, Llama, Qwen2, Qwen3, Gemma, Phi or OLMo."
    )


def _differences(model: Any) -> tuple[float, float]:
    """How far a packed row, and a padded batch as a measure of rounding, are from single passes."""
    embeddings = model.get_input_embeddings()
    examples = _examples(model.config, embeddings.num_embeddings)
    device = embeddings.weight.device
    modes = [(part, part.training) for part in model.modules()]
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for part, _ in modes:
            part.training = False
        try:
            student = CausalStudent(model, pad=0, row_tokens=sum(e.length for e in examples))
            batch = {key: value.to(device) for key, value in student.collate(examples).items()}
            scores = student.forward(**batch)
            rows = [(e.contexts[0], b) for e in examples for b in e.branches]
            alone = torch.cat([_separate(model, [row], device) for row in rows])
            padded = _separate(model, rows, device)
        finally:
            for part, mode in modes:
                part.training = mode
    packed = torch.cat([scores.tokens[scores.branch == i] for i in range(len(rows))])
    return _distance(packed, alone), _distance(padded, alone)


def _distance(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, in standard deviations of what is expected."""
    far = float((found - expected).square().mean().sqrt() / expected.std())
    return math.inf if math.isnan(far) else far


def _separate(model: Any, rows: list[tuple[tuple[int, ...], Branch]], device: Any) -> Tensor:
    """Log-probabilities of the branches' targets; a row each, padded where nobody looks."""
    width = max(len(context) + len(branch.inputs) for context, branch in rows)
    ids = [[*context, *branch.inputs] for context, branch in rows]
    whole = torch.tensor([row + row[-1:] * (width - len(row)) for row in ids], device=device)
    logits = model(input_ids=whole, use_cache=False).logits
    found = []
    for line, (context, branch) in zip(logits, rows, strict=True):
        logs = torch.log_softmax(line[len(context) : len(context) + len(branch.inputs)].float(), -1)
        wanted = torch.tensor(branch.targets, device=device)
        found.append(logs.gather(-1, wanted[:, None])[:, 0])
    return torch.cat(found)


def _examples(config: Any, rows: int) -> list[EncodedExample]:
    special = {getattr(config, f"{n}_token_id", None) for n in ("pad", "bos", "eos")}
    ids = [i for i in range(rows) if i not in special]
    place = 0

    def some(count: int) -> tuple[int, ...]:
        nonlocal place
        place += count
        return tuple(ids[37 * i % len(ids)] for i in range(place - count, place))

    return [
        EncodedExample(
            (some(prompt),),
            (Branch(some(label), some(label), 0), Branch(some(reason), some(reason), None)),
            gold=0,
        )
        for prompt, label, reason in LENGTHS
    ]
