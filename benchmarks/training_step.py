"""
What one training step costs per example, against the pattern of the authors' code.

    python benchmarks/training_step.py --model flan-t5-small --rounds 3
    python benchmarks/training_step.py --model gpt2 --rounds 3 --pairs PAIRS.jsonl

Reference: two forward passes per batch (label, rationale), each padded to the longest of an
unsorted batch, logits at every position, as in google-research/distilling-step-by-step. Ours: the
student modules of this repository on batches sorted by length. Same random weights, same examples,
forward + backward, a share of AdamW's step every 64 examples (the paper's batch), dropout on.
Variants take turns batch by batch and each batch's minimum over the rounds counts, so that a busy
machine hurts all alike; `--clock cpu --threads 1` counts the processor's time instead of the
wall's, for a machine that is never idle. `--pairs` takes JSONL rows with text, label and rationale
and needs `--tokenizer`; without it, lengths follow the Financial PhraseBank's (mean 29, standard
deviation 13 T5 tokens) with 40-token rationales. Peak memory is the resident set's high-water mark
(VmHWM) of a process of its own per variant that runs the longest batch twice, optimizer included; a
bar is met where the speed is and the peak is not above that of the two passes in that precision.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if os.environ.get("OMP_WAIT_POLICY") is None:  # before torch: waiting threads must not spin
    os.execve(
        sys.executable, [sys.executable, *sys.argv], {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    )

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from student.encoding import IGNORE, Branch, EncodedExample
from student.models.causal import CausalStudent
from student.models.fuse import fuse_activations
from student.models.seq2seq import Seq2SeqStudent
from student.steps import Objective, batch_totals, micro_batch_terms

PAD, END, PREDICT, EXPLAIN = 0, 1, 32099, 32098
Step = Callable[[Sequence[EncodedExample]], Tensor]


@dataclass(frozen=True)
class Variant:
    """One way to compute the loss; `bar`: how many times faster than the fp32 reference."""

    name: str
    form: str  # reference | prefix | decoder | packed
    bf16: bool
    bar: float | None = None


VARIANTS = {
    "flan-t5-small": [
        Variant("two passes, fp32", "reference", False),
        Variant("two passes, bf16", "reference", True),
        Variant("prefix, fp32", "prefix", False, 1.35),
        Variant("prefix, bf16", "prefix", True, 2.4),
        Variant("decoder, fp32", "decoder", False, 1.8),
        Variant("decoder, bf16", "decoder", True, 3.5),
    ],
    "gpt2": [
        Variant("two passes, fp32", "reference", False),
        Variant("two passes, bf16", "reference", True),
        Variant("packed branches, fp32", "packed", False, 2.0),
        Variant("packed branches, bf16", "packed", True, 5.0),
    ],
}


def build_model(name: str, attention: str) -> Any:
    """Random weights in the shape of Flan-T5-small (77 M) or GPT-2 (124 M)."""
    torch.manual_seed(0)
    if name == "gpt2":
        config = AutoConfig.for_model("gpt2", pad_token_id=PAD, eos_token_id=END)
        causal: Any = AutoModelForCausalLM
        return causal.from_config(config, attn_implementation=attention)
    config = AutoConfig.for_model(
        "t5", d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_heads=6, vocab_size=32128,
        feed_forward_proj="gated-gelu", decoder_start_token_id=PAD,
    )  # fmt: skip
    seq2seq: Any = AutoModelForSeq2SeqLM
    return seq2seq.from_config(config, attn_implementation=attention)


# -- examples -------------------------------------------------------------------------------------


def token_rows(args: argparse.Namespace) -> list[tuple[list[int], list[int], list[int]]]:
    """(text, label, rationale) token ids of all examples."""
    if args.pairs:
        tokenizer: Any = AutoTokenizer.from_pretrained(args.tokenizer)
        rows = [json.loads(line) for line in args.pairs.read_text(encoding="utf-8").splitlines()]
        chosen = random.Random(0).sample(rows, min(args.examples, len(rows)))
        plain = [
            [tokenizer(r[k], add_special_tokens=False)["input_ids"] for k in KEYS] for r in chosen
        ]
        return [(text, label, rationale) for text, label, rationale in plain]
    draw = random.Random(0)

    def ids(count: int) -> list[int]:
        return [draw.randrange(100, 32000) for _ in range(count)]

    lengths = [max(5, min(120, round(draw.gauss(29, 13)))) for _ in range(args.examples)]
    return [(ids(n), ids(1), ids(40)) for n in lengths]


KEYS = ("text", "label", "rationale")
PREFIXES = {"predict": [9689, 10], "explain": [3209, 10]}


def encode(
    rows: Sequence[tuple[list[int], list[int], list[int]]], form: str
) -> list[EncodedExample]:
    """Rows as the student modules take them."""
    return [_encode(*row, form) for row in rows]


def _encode(text: list[int], label: list[int], rationale: list[int], form: str) -> EncodedExample:
    def branch(word: list[int], answer: list[int], index: int | None, context: int = 0) -> Branch:
        targets = (*answer, END)
        silent = [IGNORE] * (len(word) - 1)
        return Branch((*word, *answer), (*silent, *targets), index, context)

    words = PREFIXES
    if form == "packed":
        contexts: tuple[tuple[int, ...], ...] = (tuple(text),)
        branches = (
            branch(words["predict"], label, 0),
            branch(words["explain"], rationale, None),
        )
    elif form == "decoder":
        contexts = ((*text, END),)
        branches = (branch([PREDICT], label, 0), branch([EXPLAIN], rationale, None))
    else:
        contexts = tuple((*words[w], *text, END) for w in ("predict", "explain"))
        branches = (branch([PAD], label, 0), branch([PAD], rationale, None, 1))
    return EncodedExample(contexts, branches, gold=0)


# -- the two ways ---------------------------------------------------------------------------------


def reference_step(model: Any, causal: bool) -> Step:
    """The authors' loss: model(...) on label rows, model(...) on rationale rows, each a mean."""

    def padded(rows: list[list[int]], value: int) -> Tensor:
        width = max(map(len, rows))
        return torch.tensor([r + [value] * (width - len(r)) for r in rows])

    def one_pass(examples: Sequence[EncodedExample], which: int) -> Tensor:
        inputs, labels = [], []
        for example in examples:
            branch = example.branches[which]
            if causal:
                whole = [*example.contexts[0], *branch.inputs, END]
                inputs.append(whole)
                labels.append([IGNORE] * (len(example.contexts[0]) + 1) + list(branch.targets))
            else:
                inputs.append(list(example.contexts[which]))
                labels.append(list(branch.targets))
        ids = padded(inputs, PAD)
        lengths = torch.tensor([len(r) for r in inputs])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        loss: Tensor = model(input_ids=ids, attention_mask=mask, labels=padded(labels, IGNORE)).loss
        return loss

    def step(examples: Sequence[EncodedExample]) -> Tensor:
        return one_pass(examples, 0) + one_pass(examples, 1)

    return step


def our_step(module: Any) -> Step:
    """The repository's own loss over one micro-batch."""

    def step(examples: Sequence[EncodedExample]) -> Tensor:
        terms = micro_batch_terms(module, examples, Objective(), torch.device("cpu"))
        return terms.loss(batch_totals(examples), 1.0)

    return step


def batches(examples: list[EncodedExample], size: int, ordered: bool) -> list[list[EncodedExample]]:
    """The same examples in batches: sorted by length, or shuffled."""
    chosen = list(examples)
    if ordered:
        chosen.sort(key=lambda e: e.length)
    else:
        random.Random(1).shuffle(chosen)
    return [chosen[i : i + size] for i in range(0, len(chosen), size)]


class Runner:
    """A variant with its own model and optimizer, ready to run its batches."""

    def __init__(self, variant: Variant, args: argparse.Namespace):
        self.variant = variant
        self.clock = time.process_time if args.clock == "cpu" else time.perf_counter
        own = variant.form != "reference"
        model = build_model(args.model, "eager" if own else args.reference_attention)
        model.train()
        form = variant.form
        if own:
            fuse_activations(model)  # as load_student does
        if not own:
            form = "packed" if args.model == "gpt2" else "prefix"
            self.step = reference_step(model, args.model == "gpt2")
        elif form == "packed":
            self.step = our_step(CausalStudent(model, PAD, args.row_tokens))
        else:
            self.step = our_step(Seq2SeqStudent(model, PAD))
        examples = encode(token_rows(args), form)
        self.batches = fair_part(batches(examples, args.batch, own), args.share)
        self.examples = sum(map(len, self.batches))
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def learn(self, number: int) -> float:
        """Seconds of one batch, forward and backward."""
        started = self.clock()
        with self._precision():
            loss = self.step(self.batches[number])
        loss.backward()  # type: ignore[no-untyped-call]
        return self.clock() - started

    def update(self) -> float:
        """Seconds of the optimizer's step."""
        started = self.clock()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.clock() - started

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.variant.bf16):
            yield


def fair_part(parts: list[list[EncodedExample]], share: float) -> list[list[EncodedExample]]:
    """
    Evenly spaced batches of all: of every length where they are sorted, else as chance made them.

    The batches are made of all examples first: a random batch of a few chosen ones would miss the
    longest, to which it is padded.
    """
    every = max(1, round(1 / share))
    return parts[every // 2 :: every]


def peak_bytes(variant: Variant, args: argparse.Namespace) -> int:
    """Resident set of a fresh process after the variant's largest batch."""
    command = [sys.executable, __file__, "--model", args.model, "--memory-of", variant.name]
    command += ["--batch", str(args.batch), "--examples", str(args.examples)]
    command += ["--share", str(args.share), "--row-tokens", str(args.row_tokens)]
    if args.pairs:
        command += ["--pairs", str(args.pairs), "--tokenizer", str(args.tokenizer)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1])


def memory_of(variant: Variant, args: argparse.Namespace) -> None:
    """Print the resident peak of one variant; see peak_bytes."""
    runner = Runner(variant, args)
    longest = max(
        range(len(runner.batches)), key=lambda i: max(e.length for e in runner.batches[i])
    )
    for _ in range(2):
        runner.learn(longest)
        runner.update()
    # Not ru_maxrss: a started process inherits its parent's high-water mark.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", choices=list(VARIANTS), default="flan-t5-small")
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--share", type=float, default=1.0, help="part of the examples to run")
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--effective", type=int, default=64, help="examples per update (paper: 64)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--row-tokens", type=int, default=256)
    parser.add_argument("--reference-attention", default="sdpa", help="the library's default")
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.batch = args.batch or (8 if args.model == "gpt2" else 16)
    torch.set_num_threads(args.threads)
    variants = VARIANTS[args.model]
    if args.memory_of:
        memory_of(next(v for v in variants if v.name == args.memory_of), args)
        return
    report(args, variants, fastest([Runner(variant, args) for variant in variants], args))


def fastest(runners: Sequence[Runner], args: argparse.Namespace) -> list[float]:
    """Seconds per example of every variant: each batch's and each update's best over the rounds."""
    for runner in runners:  # the first pass of a process allocates and compiles kernels
        runner.learn(0)
        runner.update()
    batch_best = [[float("inf")] * len(runner.batches) for runner in runners]
    update_best = [float("inf")] * len(runners)
    for number in range(args.rounds):
        for i in range(len(runners[0].batches)):
            for runner, found in zip(runners, batch_best, strict=True):
                found[i] = min(found[i], runner.learn(i))
        update_best = [min(b, r.update()) for b, r in zip(update_best, runners, strict=True)]
        best = [
            sum(found) / runner.examples + update / args.effective
            for runner, found, update in zip(runners, batch_best, update_best, strict=True)
        ]
        told = [round(1000 * b, 1) for b in best]
        print(f"round {number + 1}: {told} ms/example", file=sys.stderr, flush=True)
    return best


def report(args: argparse.Namespace, variants: list[Variant], best: list[float]) -> None:
    """A table to read and, where asked, JSON to keep."""
    rows: list[dict[str, Any]] = []
    allowed: dict[bool, int | None] = {}  # by precision; the two passes come first
    for variant, seconds in zip(variants, best, strict=True):
        ratio = best[0] / seconds
        peak = None if args.no_memory else peak_bytes(variant, args)
        most = allowed.setdefault(variant.bf16, peak)
        small = peak is None or most is None or peak <= most
        met = None if variant.bar is None else ratio >= variant.bar and small
        rows.append(
            {"variant": variant.name, "ms_per_example": round(1000 * seconds, 2),
             "ratio": round(ratio, 2), "bar": variant.bar, "met": met, "peak_bytes": peak}
        )  # fmt: skip
    print(f"| {args.model}, {args.threads} threads | ms/example | speed-up | bar | peak GB |")
    print("|---|---|---|---|---|")
    for row in rows:
        memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.2f}"
        print(
            f"| {row['variant']} | {row['ms_per_example']:.1f} | {row['ratio']:.2f} | "
            f"{row['bar'] or ''} | {memory} |"
        )
    if args.json:
        told = ("model", "threads", "clock", "examples", "share", "batch", "rounds")
        facts = {"torch": torch.__version__, **{k: getattr(args, k) for k in told}, "rows": rows}
        args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
