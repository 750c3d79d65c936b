"""
What an export takes in memory, as a multiple of its student's weights in float32. Linux only.

    python benchmarks/export_memory.py [--hidden 512] [--layers 6]

A T5 of random weights, trained for one step, is exported in every form, each in a process of its
own: the highest resident memory while it writes, reloads and compares, above what the process had
when everything was imported. The bounds of the check are lifted: random weights answer near ties.
"""

import argparse
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.records import TrainingPair
from common.task import load_task
from student.export.check import BOUNDS, Bounds
from student.export.export import NUMBERS, export_student
from student.predict import Predictor
from student.train import train_student

TEXTS = [f"Sales of unit {i} rose in the quarter." for i in range(8)]
FORMS = [(form, numbers) for form, kinds in NUMBERS.items() for numbers in kinds]


def train(folder: Path, hidden: int, layers: int) -> None:
    """A student without sense, of the size asked for."""
    task = load_task("sentiment")
    shape = {"family": "t5", "hidden": hidden, "layers": layers, "heads": 8, "vocabulary": 400}
    tree = {"model": "tiny-random", "tiny": {**shape, "feed_forward": 3 * hidden}}
    pairs = [
        TrainingPair(example_id=str(i), text=text, label=task.label_names[0], weight=1.0)
        for i, text in enumerate(TEXTS)
    ]
    train_student(
        student=StudentConfig.model_validate(
            {"architecture": "seq2seq", "max_rationale_tokens": 4, **tree}
        ),
        training=TrainingConfig(max_steps=1, batch_size=2, evaluations=0, seed=5),
        task=task, train=pairs, validation=[], folder=folder, threads=1,
    )  # fmt: skip


def resident(kind: str) -> int:
    """Bytes, VmRSS (now) or VmHWM (the highest since it was forgotten)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(kind))


def measure(student: Path, form: str, numbers: str) -> str:
    """Export in this process; the row of the table."""
    for package in ("ctranslate2", "onnx", "onnxruntime"):
        if find_spec(package):
            __import__(package)
    weights = 4 * sum(p.numel() for p in _module(student).parameters())
    BOUNDS.update(dict.fromkeys(BOUNDS, Bounds(1.0, 1.0, 9.0, 9.0, -1.0)))
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    with tempfile.TemporaryDirectory() as place:
        export_student(student, form, Path(place) / "out", TEXTS, numbers=numbers, threads=1)  # type: ignore[arg-type]
    peak = resident("VmHWM") - before
    return f"| {form} | {numbers} | {weights / 1e6:.0f} | {peak / 1e6:.0f} | {peak / weights:.1f} |"


def _module(student: Path) -> torch.nn.Module:
    module: torch.nn.Module = Predictor.load(student)._runtime.loaded.module  # type: ignore[attr-defined]
    return module


def main() -> None:
    """Print the table."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else "")
    asked.add_argument("--hidden", type=int, default=512)
    asked.add_argument("--layers", type=int, default=6)
    asked.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    told = asked.parse_args()
    torch.set_num_threads(1)
    if told.one:
        print(measure(Path(told.one[0]), told.one[1], told.one[2]))
        return
    with tempfile.TemporaryDirectory() as place:
        train(Path(place), told.hidden, told.layers)
        print("| form | numbers | weights, MB | peak, MB | times |\n|---|---|---|---|---|")
        for form, numbers in FORMS:
            one = [sys.executable, __file__, "--one", f"{place}/model", form, numbers]
            done = subprocess.run(one, check=True, capture_output=True, text=True)
            print(done.stdout.strip().splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
