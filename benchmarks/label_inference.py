"""
What a label costs per text: generate and parse against label scoring, in fp32, bf16 and int8.

    python benchmarks/label_inference.py
    python benchmarks/label_inference.py --student runs/ID/systems/student/model

Reference: `generate` in batches of 8 in random order, the output parsed, as FinGPT's evaluation
does. Ours: Predictor on the same student. Without --student, a student of Flan-T5-small's shape
(77 M) is trained for a few hundred steps from random weights on gold labels, so that it answers
with labels at all and with some certainty: it proves nothing about quality. The texts are the
Financial PhraseBank where ../shared is there (trained on FinGPT's training part, measured on its
1,212 test rows), else the shipped demo corpus; --train and --texts name other JSONL files. Nothing
is chosen by the measured texts: int8 forms are real exports, made and checked on training texts.
All forms run the same weights. Variants are interleaved within each round and the minimum over
rounds counts; `--clock cpu --threads 1` counts the processor's time instead of the wall's, for a
machine that is never idle. `same label`: share of all texts with the label of fp32 scoring, near
ties included. With --work the trained student is kept and used again.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if os.environ.get("OMP_WAIT_POLICY") is None:  # before torch: waiting threads must not spin
    os.execve(
        sys.executable, [sys.executable, *sys.argv], {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    )

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from common.config.student import StudentConfig, TinyShape
from common.config.training import TrainingConfig
from common.errors import FinstillError
from common.records import TrainingPair
from common.task import TaskDefinition, load_task
from student.checkpoint import read_manifest
from student.export.export import export_student
from student.models.tiny import tiny_texts, train_tokenizer
from student.predict import Predictor
from student.train import train_student

Answer = Callable[[Sequence[str]], list[str | None]]
BARS = {"scoring, fp32": 1.6, "scoring, bf16": 4.0, "int8, fastest": 8.0}
SAME_LABEL_BAR = 0.995
ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
PHRASEBANK, DEMO = SHARED / "data/fpb/fpb.jsonl", ROOT / "configs/demo/corpus.jsonl"
TOKENIZER = SHARED / "models/tokenizer-t5"
CHECKED = 363  # texts an export is compared on: the size of FPB's validation part


def read_pairs(path: Path, task: TaskDefinition, split: str) -> list[TrainingPair]:
    """JSONL rows with text (or sentence) and label: those of one part, where a file has several."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    first = task.label_names[0]
    return [
        TrainingPair(
            example_id=str(i), text=r.get("text") or r["sentence"], label=r.get("label") or first
        )
        for i, r in enumerate(rows)
        if r.get("fingpt_split", r.get("split", split)) == split
    ]


def base_model(folder: Path, tokenizer: Path | None, texts: Sequence[str]) -> Path:
    """Random weights in the shape of Flan-T5-small, and a tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "t5", d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_heads=6, vocab_size=32128,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    seq2seq: Any = AutoModelForSeq2SeqLM
    seq2seq.from_config(config).save_pretrained(folder)
    shape = TinyShape(vocabulary=8000)
    own: Any = AutoTokenizer.from_pretrained(tokenizer) if tokenizer else None
    (own or train_tokenizer(texts, shape)).save_pretrained(folder)
    return folder


def make_student(args: argparse.Namespace, task: TaskDefinition, folder: Path) -> Path:
    """Train the stand-in student for some steps; its model folder."""
    pairs = read_pairs(args.train, task, "train")
    base = folder / "base"
    if not base.is_dir():
        base_model(base, args.tokenizer, tiny_texts(pairs, task, "default"))
    config = StudentConfig(architecture="seq2seq", model=str(base), dropout=0.0)
    training = TrainingConfig(
        max_steps=args.steps, batch_size=16, learning_rate=5e-4, precision="bf16",
        rationale_weight=0, evaluations=0, seed=13, checkpoint_every_steps=100,
    )  # fmt: skip
    train_student(
        student=config, training=training, task=task, train=pairs[CHECKED:],
        validation=pairs[:CHECKED], folder=folder / "student", threads=args.threads,
    )  # fmt: skip
    return folder / "student" / "model"


def generate_and_parse(folder: Path, batch: int) -> Answer:
    """The reference: every batch generated as it comes, the text read as a label."""
    manifest = read_manifest(folder)
    plain = manifest.student
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()  # as the library loads it: none of our changes
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    opening = [manifest.tokens[k] for k in ("lead", "predict") if k in manifest.tokens]
    prompt, labels = manifest.task.student_prompt(plain.prompt), manifest.task.label_set
    prefix = prompt.predict if plain.task_signal == "prefix" else ""

    @torch.inference_mode()
    def answer(texts: Sequence[str]) -> list[str | None]:
        found: list[str | None] = []
        for begin in range(0, len(texts), batch):
            part = [
                f"{prefix}{prompt.before}{t}{prompt.after}" for t in texts[begin : begin + batch]
            ]
            inputs = tokenizer(
                part, padding=True, truncation=True, max_length=plain.max_input_tokens,
                return_tensors="pt",
            )  # fmt: skip
            made = model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                max_new_tokens=8, do_sample=False,
                decoder_input_ids=torch.tensor([opening] * len(part)),
            )  # fmt: skip
            found += [
                labels.parse(text)
                for text in tokenizer.batch_decode(
                    made[:, len(opening) :], skip_special_tokens=True
                )
            ]
        return found

    return answer


def scoring(predictor: Predictor, batch: int) -> Answer:
    """Ours: label scoring, no rationale."""
    return lambda texts: [row.label for row in predictor.predict(texts, batch_size=batch)]


def variants(args: argparse.Namespace, folder: Path, work: Path) -> dict[str, Answer]:
    """Every way to get the labels, by name; the first is the reference."""
    made: dict[str, Answer] = {
        "generate, batch 8, random order": generate_and_parse(folder, 8),
        "scoring, fp32": scoring(Predictor.load(folder, threads=args.threads), args.batch),
        "scoring, bf16": scoring(
            Predictor.load(folder, precision="bf16", threads=args.threads), args.batch
        ),
    }
    check = [pair.text for pair in read_pairs(args.train, args.task, "train")[:CHECKED]]
    for form in ("ctranslate2", "onnx"):
        try:
            export_student(folder, form, work / form, check, numbers="int8", threads=args.threads)
        except FinstillError as error:
            print(f"{form}: {error}", file=sys.stderr)
            continue
        exported = Predictor.load(work / form, threads=args.threads)
        made[f"{form} int8"] = scoring(exported, args.batch)
    return made


def measure(
    args: argparse.Namespace, made: dict[str, Answer], texts: list[str]
) -> tuple[dict[str, float], dict[str, list[str | None]]]:
    """Best seconds per text of each variant, rounds interleaved, and its labels."""
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    best, labels = dict.fromkeys(made, float("inf")), {}
    for answer in made.values():
        answer(texts[:16])  # the first pass of a process allocates and compiles kernels
    for number in range(args.rounds):
        for name, answer in made.items():
            started = clock()
            labels[name] = answer(texts)
            best[name] = min(best[name], (clock() - started) / len(texts))
        told = {name: round(1000 * seconds, 2) for name, seconds in best.items()}
        print(f"round {number + 1}: {told} ms/text", file=sys.stderr, flush=True)
    return best, labels


def report(args: argparse.Namespace, made: dict[str, Answer], texts: list[str]) -> None:
    """A table to read and, where asked, JSON to keep."""
    best, labels = measure(args, made, texts)
    reference, expected = next(iter(best)), labels["scoring, fp32"]
    fastest = min((n for n in best if "int8" in n), key=lambda n: best[n], default=None)
    rows = []
    for name, seconds in best.items():
        same = sum(a == b for a, b in zip(labels[name], expected, strict=True)) / len(texts)
        bar = BARS.get("int8, fastest" if name == fastest else name)
        ratio = best[reference] / seconds
        met = None if bar is None else ratio >= bar and same >= SAME_LABEL_BAR
        rows.append(
            {"variant": name, "ms_per_text": round(1000 * seconds, 3), "ratio": round(ratio, 2),
             "bar": bar, "met": met, "same_label": round(same, 5)}
        )  # fmt: skip
    print(f"| {args.threads} threads, {args.clock} clock | ms/text | speed-up | bar | same label |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['variant']} | {row['ms_per_text']:.2f} | {row['ratio']:.2f} | "
            f"{row['bar'] or ''} | {row['same_label']:.2%} |"
        )
    shares = {name: expected.count(name) / len(texts) for name in args.task.label_names}
    print(f"\n{len(texts)} texts; fp32 scoring answers {shares}")
    if args.json:
        told = ("threads", "clock", "batch", "rounds", "steps")
        facts = {"torch": torch.__version__, "texts": len(texts), "answers": shares, "rows": rows}
        facts |= {name: getattr(args, name) for name in told}
        args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    corpus = PHRASEBANK if PHRASEBANK.is_file() else DEMO
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--student", type=Path, help="the model/ folder of a seq2seq student")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER if SHARED.is_dir() else None)
    parser.add_argument("--train", type=Path, default=corpus, help="JSONL with text and label")
    parser.add_argument("--texts", type=Path, default=corpus, help="JSONL: the texts to label")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--limit", type=int, help="so many of the texts, chosen by seed")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--work", type=Path, help="keep the student and its exports here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    args.task = load_task("sentiment")
    torch.set_num_threads(args.threads)
    pairs = read_pairs(args.texts, args.task, "test")
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        folder = args.student or make_student(args, args.task, work)
        texts = [pair.text for pair in pairs]
        assert texts, f"{args.texts} has no test rows"
        random.Random(1).shuffle(texts)
        report(args, variants(args, folder, work), texts[: args.limit])


if __name__ == "__main__":
    main()
