"""
What 4-bit LoRA costs and saves against bf16 LoRA: step time, tokens/s, weights and peak memory.

    python -m benchmarks.quantized_training                           # the tiny Llama, on a CPU
    python -m benchmarks.quantized_training --shape llama-111m        # wide enough to see memory
    python -m benchmarks.quantized_training --device cuda --shape llama-3.1-8b --json FILE

Base: --model, a folder; or --shape, random weights made in place (no 16 GB file); else
../shared/models/stories260K, and where that is missing a tiny random Llama. Under NF4 with double
quantisation or in bf16, prepared and given adapters (rank 16 on all linear layers) by the code that
trains students; step-by-step loss on packed rows, bf16 autocast, examples of the Financial
PhraseBank's length (29 tokens, 21 of rationale) made of random ids. One step is an effective batch
of --batch examples in micro-batches, then AdamW (paged 8-bit on a GPU). Every measurement is a
process of its own; rounds are interleaved and the fastest counts. Peak memory: on a GPU what torch
allocated, on a CPU the growth of the resident set since before the weights were loaded.
The estimate is 4.127 bits for each weight of the whole model (QLoRA, section 3): 4.1 GB for
Llama-3.1-8B; with the embedding and the head in bf16, as here, 5.7 GB.
"""

import argparse
import importlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if os.environ.get("OMP_WAIT_POLICY") is None and __name__ == "__main__":
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # before torch: waiting threads must not spin

import torch
from torch import nn

from benchmarks.shapes import SHAPES, config_of, random_model
from common.config.student import LoraSection, StudentConfig
from common.task import load_task
from student.encoding import IGNORE, Branch, EncodedExample
from student.memory import forget_peak_memory, parameter_counts, peak_memory_bytes
from student.models.adapters import add_lora, keep_differentiable, nf4, prepare_quantized
from student.models.causal import CausalStudent
from student.models.load import Plan, load_student
from student.steps import Objective, batch_totals, micro_batch_terms

SHAPES["llama-tiny"] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512,
}  # fmt: skip
SHAPES["llama-111m"] = {
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8,
    "num_attention_heads": 16, "vocab_size": 4096,
}  # fmt: skip
LORA = LoraSection()
STORIES = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260K"
BITS_A_WEIGHT = 4.127
VARIANTS = ("bf16 LoRA", "4-bit LoRA")


def student_config(source: str, quantized: bool) -> StudentConfig:
    """The student as a config would have it."""
    return StudentConfig(
        architecture="causal",
        model=source,
        lora=LORA,
        quantization="nf4" if quantized else None,
        attention="sdpa",
    )


def random_base(shape: str, device: torch.device, quantized: bool) -> Any:
    """Random bf16 weights in a shape, each linear layer turned into NF4 as soon as it is made."""
    model = random_model(shape, "meta", attn_implementation="sdpa", dtype=torch.bfloat16)
    spread = config_of(shape).hidden_size ** -0.5
    if quantized:
        _replace_linear(model)
        model.is_loaded_in_4bit = True
    generator = torch.Generator(device).manual_seed(0)
    for part in model.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is None:
                continue
            values = torch.ones(parameter.shape, dtype=torch.bfloat16, device=device)
            if parameter.ndim == 2:
                values.normal_(0, spread, generator=generator)
            part._parameters[name] = _stored(part, values)
    # What is no parameter (the rotary frequencies) is computed from the config.
    with device:
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model


def _replace_linear(model: Any) -> None:
    bnb: Any = importlib.import_module("bitsandbytes")
    settings = nf4(torch.bfloat16)
    head = model.get_output_embeddings()
    linear = [(n, p) for n, p in model.named_modules() if type(p) is nn.Linear and p is not head]
    for name, part in linear:
        parent, _, last = name.rpartition(".")
        with torch.device("meta"):
            new = bnb.nn.Linear4bit(
                part.in_features, part.out_features, bias=False, compute_dtype=torch.bfloat16,
                compress_statistics=settings.bnb_4bit_use_double_quant, quant_type="nf4",
            )  # fmt: skip
        setattr(model.get_submodule(parent), last, new)


def _stored(part: nn.Module, values: torch.Tensor) -> nn.Parameter:
    if type(part).__name__ != "Linear4bit":
        return nn.Parameter(values, requires_grad=False)
    bnb: Any = importlib.import_module("bitsandbytes")
    packed: nn.Parameter = bnb.nn.Params4bit(
        values, requires_grad=False, quant_type="nf4", compress_statistics=True, module=part
    )._quantize(values.device)
    return packed


def load(args: argparse.Namespace, quantized: bool) -> CausalStudent:
    """The student ready to train."""
    device = torch.device(args.device)
    if args.model:
        config = student_config(str(args.model), quantized)
        plan = Plan(torch.bfloat16, args.checkpointing, args.row_tokens, device)
        module = load_student(config, load_task("sentiment"), config.model, plan).module
        assert isinstance(module, CausalStudent)
        return module
    config = student_config(args.shape, quantized)
    model = random_base(args.shape, device, quantized)
    if quantized:
        keep_differentiable(model)
        model = prepare_quantized(model, torch.bfloat16, args.checkpointing)
    elif args.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return CausalStudent(add_lora(model, LORA, config), 0, args.row_tokens).to(device)


def examples(count: int, vocabulary: int) -> list[EncodedExample]:
    """Random ids in the lengths of FPB: text, then label and rationale as two branches."""
    draw = random.Random(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, vocabulary) for _ in range(length))

    def branch(answer: tuple[int, ...], label: int | None) -> Branch:
        word = ids(3)
        return Branch((*word, *answer), (*[IGNORE] * 2, *answer, 1), label)

    return [
        EncodedExample(
            (ids(max(5, min(120, round(draw.gauss(29, 13))))),),
            (branch(ids(1), 0), branch(ids(21), None)),
            gold=0,
        )
        for _ in range(count)
    ]


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all weights, with the scales of 4-bit blocks."""
    total = 0
    for parameter in module.parameters():
        total += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            total += state.absmax.nbytes
            if state.nested:
                total += state.state2.absmax.nbytes
    return total


def measure(args: argparse.Namespace, quantized: bool) -> dict[str, float]:
    """One variant in this process: fastest step, memory, first and last loss."""
    device = torch.device(args.device)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    forget_peak_memory()
    before = peak_memory_bytes(device)
    torch.manual_seed(0)
    module = load(args, quantized).train()
    batch = examples(args.batch, module.core.config.vocab_size)
    parts = [batch[i : i + args.micro_batch] for i in range(0, len(batch), args.micro_batch)]
    optimizer = _optimizer(module, device)
    totals, fastest = batch_totals(batch), float("inf")
    losses: list[float] = []
    for _ in range(args.steps + 1):  # the first step allocates
        started = clock()
        summed = 0.0
        for part in parts:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                terms = micro_batch_terms(module, part, Objective(), device)
            loss = terms.loss(totals, 1.0)
            loss.backward()  # type: ignore[no-untyped-call]
            summed += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if losses:
            fastest = min(fastest, clock() - started)
        losses.append(summed)
    return {
        "step_seconds": fastest,
        "tokens_per_second": sum(e.length for e in batch) / fastest,
        "weight_bytes": stored_bytes(module),
        "peak_bytes": peak_memory_bytes(device) - before,
        "parameters": parameter_counts(module)[0] - parameter_counts(module)[1],
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def _optimizer(module: nn.Module, device: torch.device) -> Any:
    trained = [p for p in module.parameters() if p.requires_grad]
    if device.type == "cuda":
        bnb: Any = importlib.import_module("bitsandbytes")
        return bnb.optim.PagedAdamW8bit(trained, lr=2e-4)
    return torch.optim.AdamW(trained, lr=2e-3, fused=True)


def run_variants(arguments: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Each variant in fresh processes, rounds interleaved; the round with the fastest step."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for variant in VARIANTS:
            command = [sys.executable, "-m", "benchmarks.quantized_training", *arguments]
            done = subprocess.run(
                [*command, "--only", variant], capture_output=True, text=True, check=True,
                cwd=Path(__file__).resolve().parents[1],
            )  # fmt: skip
            found = json.loads(done.stdout.strip().splitlines()[-1])
            if variant not in best or found["step_seconds"] < best[variant]["step_seconds"]:
                best[variant] = found
    return best


def report(args: argparse.Namespace, best: dict[str, dict[str, float]]) -> None:
    """A table to read and, where asked, JSON to keep."""
    full, packed = best[VARIANTS[0]], best[VARIANTS[1]]
    source = args.model.name if args.model else args.shape
    print(f"| {source} on {args.device} | step ms | tokens/s | weights MB | peak MB | loss |")
    print("|---|---|---|---|---|---|")
    for name, row in best.items():
        print(
            f"| {name} | {1e3 * row['step_seconds']:.0f} | {row['tokens_per_second']:,.0f} | "
            f"{row['weight_bytes'] / 1e6:.1f} | {row['peak_bytes'] / 1e6:.0f} | "
            f"{row['first_loss']:.2f} to {row['last_loss']:.2f} |"
        )
    ratios = {
        name: packed[name] / full[name] for name in ("step_seconds", "weight_bytes", "peak_bytes")
    }
    print(
        f"| 4-bit : bf16 | {ratios['step_seconds']:.2f} | {1 / ratios['step_seconds']:.2f} | "
        f"{ratios['weight_bytes']:.2f} | {ratios['peak_bytes']:.2f} | |"
    )
    estimate = packed["parameters"] * BITS_A_WEIGHT / 8
    print(f"\nestimate of {BITS_A_WEIGHT} bits a weight: {estimate / 1e6:,.1f} MB")
    if args.json:
        facts = {"source": source, "device": args.device, "torch": torch.__version__}
        facts |= {"threads": args.threads, "clock": args.clock, "batch": args.batch}
        text = json.dumps({**facts, "estimate": estimate, "rows": best, "ratios": ratios}, indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", type=Path, help="a folder with a Llama")
    parser.add_argument("--shape", choices=[s for s in SHAPES if s.startswith("llama")])
    parser.add_argument("--batch", type=int, default=32, help="examples per step")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--row-tokens", type=int, default=256)
    parser.add_argument("--checkpointing", action="store_true", help="as the 8B config does")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--only", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.model and not args.shape:
        args.model = STORIES if STORIES.is_dir() else None
        args.shape = None if args.model else "llama-tiny"
    if args.only:
        print(json.dumps(measure(args, args.only == VARIANTS[1])))
        return
    report(args, run_variants(sys.argv[1:], args.rounds))


if __name__ == "__main__":
    main()
