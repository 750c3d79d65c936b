"""
How long a comparison takes, and how much memory, from Parquet files of simulated predictions.

    python benchmarks/compare.py --texts 1000000 --systems 4

Writes the files to a temporary folder first; only reading, judging and comparing are timed.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Simulate, then measure in a process of its own: its peak memory is the comparison's."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--texts", type=int, default=1_000_000)
    options.add_argument("--systems", type=int, default=4)
    options.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure:
        measure(given.measure, given.systems)
        return
    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder), given.texts, given.systems)
        arguments = ["--systems", str(given.systems), "--measure", folder]
        subprocess.run([sys.executable, __file__, *arguments], check=True)


def simulate(folder: Path, texts: int, systems: int) -> None:
    """Gold and predictions with probabilities; each system a little worse than the one before."""
    from common.task import load_task

    names = np.array(load_task("sentiment").label_names)
    rng = np.random.default_rng(0)
    gold = rng.choice(len(names), texts, p=[0.12, 0.6, 0.28])
    ids = np.char.add("t", np.arange(texts).astype(str))
    sentence = pa.array(["Turnover of the invented company rose by 4 % in the quarter."] * texts)
    example = {"id": ids, "text": sentence, "label": names[gold], "meta": ["{}"] * texts}
    pq.write_table(pa.table(example), folder / "gold.parquet")
    for place in range(systems):
        right = rng.random(texts) < 0.86 - 0.01 * place
        answer = np.where(right, gold, (gold + rng.integers(1, 3, texts)) % len(names))
        sure = np.round(rng.uniform(0.4, 1.0, texts), 3)
        table = pa.table(
            {
                "example_id": ids,
                "label": names[answer],
                "probabilities": probabilities(names, answer, sure),
                "rationale": pa.nulls(texts, pa.string()),
                "raw": pa.nulls(texts, pa.string()),
            }
        )
        pq.write_table(table, folder / f"system{place}.parquet")


def probabilities(names: np.ndarray, answer: np.ndarray, sure: np.ndarray) -> list[str]:
    """JSON cells, as predictions are stored."""
    rest = np.round((1 - sure) / (len(names) - 1), 4)
    return [
        json.dumps({str(n): float(s if i == a else r) for i, n in enumerate(names)})
        for a, s, r in zip(answer, sure, rest, strict=True)
    ]


def measure(folder: Path, systems: int) -> None:
    """Judge every system, compare all pairs, render the page; print seconds and peak memory."""
    from common.config.run import EvaluationConfig
    from common.evaluation.comparison import ReportContext
    from common.evaluation.files import JudgedFile, compare_files, evaluate_file
    from common.evaluation.render import render_html
    from common.records import SystemCard
    from common.task import load_task

    task, settings = load_task("sentiment"), EvaluationConfig()
    gold = folder / "gold.parquet"
    started = time.perf_counter()
    judged = []
    for place in range(systems):
        card = SystemCard(name=f"s{place}", role="student", title=f"System {place}")
        path = folder / f"system{place}.parquet"
        report = evaluate_file(card, gold, path, task, settings, "simulated", "0" * 64)
        judged.append(JudgedFile(report, path))
    evaluated = time.perf_counter()
    comparison = compare_files(judged, gold, task, settings, context=ReportContext())
    compared = time.perf_counter()
    page = render_html(comparison)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        json.dumps(
            {
                "texts": comparison.n,
                "systems": systems,
                "pairs": len(comparison.pairs),
                "resamples": settings.bootstrap,
                "evaluate_seconds": round(evaluated - started, 1),
                "compare_seconds": round(compared - evaluated, 1),
                "render_seconds": round(time.perf_counter() - compared, 1),
                "page_mb": round(len(page.encode()) / 1e6, 2),
                "peak_gib": round(peak, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
