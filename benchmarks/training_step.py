"""
What one training step costs per example, against the pattern of the authors' code.

    python benchmarks/training_step.py --model flan-t5-small --rounds 3
    python benchmarks/training_step.py --model gpt2 --rounds 3 --pairs PAIRS.jsonl

Reference: two forward passes per batch (label, rationale), each padded to the longest of an
unsorted batch, logits at every position, as in google-research/distilling-step-by-step. Ours: the
Trainer of this repository with its configured defaults, on effective batches of like length as its
sampler makes them. Same random weights, same examples, forward + backward, clipping and AdamW's
step every effective batch, dropout on. Variants take turns effective batch by effective batch and
each one's minimum over the rounds counts, so that a busy machine hurts all alike; `--clock cpu
--threads 1` counts the processor's time instead of the
wall's, for a machine that is never idle. `--pairs` takes JSONL rows with text, label and rationale
and needs `--tokenizer`; without it, lengths follow the Financial PhraseBank's (mean 29, standard
deviation 13 T5 tokens) with 40-token rationales. Peak memory is the resident set's high-water mark
(VmHWM) of a process of its own per variant that runs the longest batch twice, optimizer included; a
bar is met where the speed is and the peak is not above that of the two passes in that precision.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
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

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from student.arguments import training_arguments
from student.defaults import hyperparameters
from student.encoding import IGNORE, Branch, EncodedExample
from student.ledger import Ledger
from student.memory import freed_memory_kept
from student.models.causal import CausalStudent
from student.models.fuse import quicken
from student.models.seq2seq import Seq2SeqStudent
from student.steps import Objective
from student.trainer import StepByStepTrainer

PAD, END, PREDICT, EXPLAIN = 0, 1, 32099, 32098
Loss = Callable[[Sequence[EncodedExample]], Tensor]


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


def reference_loss(model: Any, causal: bool) -> Loss:
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
        found: Tensor = model(
            input_ids=ids, attention_mask=mask, labels=padded(labels, IGNORE)
        ).loss
        return found

    def loss(examples: Sequence[EncodedExample]) -> Tensor:
        return one_pass(examples, 0) + one_pass(examples, 1)

    return loss


def units(examples: list[EncodedExample], size: int, share: float) -> list[list[EncodedExample]]:
    """
    Effective batches of like length, as the pooled sampler makes them; evenly spaced ones of all.

    They are cut from all examples first: chosen later, they have every length in its measure.
    """
    ordered = sorted(examples, key=lambda e: e.length)
    parts = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    count = max(1, round(share * len(parts)))
    return [parts[int((i + 0.5) * len(parts) / count)] for i in range(count)]


class TwoPasses:
    """The authors' pattern: padded batches of an unsorted effective batch."""

    def __init__(self, variant: Variant, args: argparse.Namespace):
        self.model = build_model(args.model, args.reference_attention).train()
        self.bf16 = variant.bf16
        self.loss = reference_loss(self.model, args.model == "gpt2")
        examples = encode(token_rows(args), "packed" if args.model == "gpt2" else "prefix")
        random.Random(1).shuffle(examples)
        # No order by length: which effective batches run is chance either way.
        count = len(units(examples, args.effective, args.share))
        self.units = [examples[i * args.effective : (i + 1) * args.effective] for i in range(count)]
        self.size = args.batch
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def learn(self, number: int) -> None:
        """Forward and backward over one effective batch."""
        unit = self.units[number]
        for i in range(0, len(unit), self.size):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
                loss = self.loss(unit[i : i + self.size]) * self.size / len(unit)
            loss.backward()

    def update(self) -> None:
        """The optimizer's step, with the Trainer's clipping."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Ours:
    """What `finstill train` runs, with the defaults it runs by: StepByStepTrainer's own step."""

    def __init__(self, variant: Variant, args: argparse.Namespace):
        causal = variant.form == "packed"
        student = StudentConfig(
            architecture="causal" if causal else "seq2seq",
            model=args.model,
            task_signal="decoder" if variant.form == "decoder" else "prefix",
        )
        training = TrainingConfig(
            batch_size=args.effective,
            micro_batch_size=args.micro_batch,
            row_tokens=args.row_tokens,
            precision="bf16" if variant.bf16 else "float32",
        )
        chosen = hyperparameters(student, training)
        model = build_model(args.model, "eager")  # load_student's choice on a CPU
        module = (
            CausalStudent(model, PAD, chosen.row_tokens) if causal else Seq2SeqStudent(model, PAD)
        )
        quicken(module)  # as load_student does
        examples = encode(token_rows(args), variant.form)
        self.units = units(examples, args.effective, args.share)
        folder = Path(tempfile.mkdtemp())
        self.trainer = StepByStepTrainer(
            module,
            training_arguments(training, chosen, folder, examples, evaluate=False),
            examples,
            Objective(),
            Ledger(micro_batch_size=chosen.micro_batch_size),
        )
        folder.rmdir()
        prepared = self.trainer.accelerator.prepare(module, self.trainer.create_optimizer())
        self.module, self.optimizer = prepared

    def learn(self, number: int) -> None:
        """Forward and backward over one effective batch."""
        self.trainer.training_step(self.module, self.units[number])

    def update(self) -> None:
        """The optimizer's step, with the Trainer's clipping."""
        self.trainer._clip_grad_norm(self.module)
        self.optimizer.step()
        self.module.zero_grad()


class Runner:
    """A variant under the clock, in a process of its own: ours sets how memory is kept."""

    def __init__(self, variant: Variant, args: argparse.Namespace):
        context = multiprocessing.get_context("spawn")
        self.line, far = context.Pipe()
        context.Process(target=serve, args=(far, variant, args), daemon=True).start()
        self.units, self.examples = self.line.recv()

    def learn(self, number: int) -> float:
        """Seconds of one effective batch, forward and backward."""
        return self._ask("learn", number)

    def update(self) -> float:
        """Seconds of the optimizer's step."""
        return self._ask("update")

    def _ask(self, *what: str | int) -> float:
        self.line.send(what)
        seconds: float = self.line.recv()
        return seconds


def serve(line: Connection, variant: Variant, args: argparse.Namespace) -> None:
    """Build a variant and do what is asked for, with the time it took as the answer."""
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    with contextlib.suppress(EOFError), way_of(variant, args) as way:  # EOF: all is measured
        line.send((len(way.units), sum(map(len, way.units))))
        while True:
            what, *where = line.recv()
            started = clock()
            getattr(way, what)(*where)
            line.send(clock() - started)


@contextlib.contextmanager
def way_of(variant: Variant, args: argparse.Namespace) -> Iterator[TwoPasses | Ours]:
    """A variant ready to run, in the surroundings its program gives it."""
    torch.set_num_threads(args.threads)
    if variant.form == "reference":
        yield TwoPasses(variant, args)
        return
    with freed_memory_kept():  # as train_student does
        yield Ours(variant, args)


def peak_bytes(variant: Variant, args: argparse.Namespace) -> int:
    """Resident set of a fresh process after the variant's largest batch."""
    command = [sys.executable, __file__, "--model", args.model, "--memory-of", variant.name]
    command += ["--batch", str(args.batch), "--examples", str(args.examples)]
    command += ["--share", str(args.share), "--effective", str(args.effective)]
    for name, value in (("micro-batch", args.micro_batch), ("row-tokens", args.row_tokens)):
        command += [f"--{name}", str(value)] if value else []
    if args.pairs:
        command += ["--pairs", str(args.pairs), "--tokenizer", str(args.tokenizer)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1])


def memory_of(variant: Variant, args: argparse.Namespace) -> None:
    """Print the resident peak of one variant; see peak_bytes."""
    with way_of(variant, args) as way:
        longest = max(range(len(way.units)), key=lambda i: max(e.length for e in way.units[i]))
        for _ in range(2):
            way.learn(longest)
            way.update()
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
    parser.add_argument("--batch", type=int, default=None, help="of the reference")
    parser.add_argument("--micro-batch", type=int, default=None, help="ours; else the default")
    parser.add_argument("--effective", type=int, default=TrainingConfig().batch_size)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--row-tokens", type=int, default=None)
    parser.add_argument("--reference-attention", default="sdpa", help="the library's default")
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--only", default="", help="variants with this in their name")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.batch = args.batch or (8 if args.model == "gpt2" else 16)
    torch.set_num_threads(args.threads)
    first, *others = VARIANTS[args.model]
    variants = [first, *(v for v in others if args.only in v.name)]
    if args.memory_of:
        memory_of(next(v for v in variants if v.name == args.memory_of), args)
        return
    report(args, variants, fastest([Runner(variant, args) for variant in variants], args))


def fastest(runners: Sequence[Runner], args: argparse.Namespace) -> list[float]:
    """Seconds per example of every variant: each batch's and each update's best over the rounds."""
    for runner in runners:  # the first pass of a process allocates and compiles kernels
        runner.learn(0)
        runner.update()
    batch_best = [[float("inf")] * runner.units for runner in runners]
    update_best = [float("inf")] * len(runners)
    for number in range(args.rounds):
        for i in range(runners[0].units):
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
