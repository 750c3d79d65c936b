"""The shipped corpus is what its data card says, and loads as a run would load it."""

import json
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest

from common.config.data import Columns, ColumnSplit, FileData
from common.data.prepare import prepare
from common.data.store import read_records
from common.records import Example
from common.task import load_task

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo"


def rows(name: str) -> list[dict[str, object]]:
    lines = (DEMO / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def card() -> str:
    return " ".join((DEMO / "DATA_CARD.md").read_text(encoding="utf-8").split())


def test_the_corpus_has_the_counts_of_its_card(card: str) -> None:
    corpus = rows("corpus.jsonl")
    counts = Counter((row["split"], row["label"]) for row in corpus)
    hard = Counter(row["split"] for row in corpus if row["hard"])

    assert f"{len(corpus):,} sentences" in card
    for split in ("train", "test"):
        cells = [counts[split, label] for label in ("negative", "neutral", "positive")]
        line = f"| {split} | {' | '.join(map(str, [*cells, sum(cells), hard[split]]))} |"
        assert line in card
    assert f"{len({row['topic'] for row in corpus})} topics" in card
    words = [len(str(row["text"]).split()) for row in corpus]
    assert f"{min(words)} to {max(words)} words, {mean(words):.1f} on average" in card


def test_the_answers_have_the_figures_of_the_card(card: str) -> None:
    gold = {row["id"]: row for row in rows("corpus.jsonl")}
    answers = rows("claude_answers_train.jsonl")
    right = sum(row["label"] == gold[row["id"]]["label"] for row in answers)
    sure = sum(float(str(row["confidence"])) >= 0.9 for row in answers)
    words = mean(len(str(row["rationale"]).split()) for row in answers)

    assert {gold[row["id"]]["split"] for row in answers} == {"train"}
    assert len({row["id"] for row in answers}) == len(answers)
    assert f"{len(answers)} answers" in card
    assert (
        f"agrees with gold on {right} of {len(answers)} ({100 * right / len(answers):.1f} %)"
        in card
    )
    assert f"{sure} with a stated confidence of 0.9 or more" in card
    assert f"{words:.1f} words" in card
    assert {row["date"] for row in answers} == {"2026-11-20"}


def test_the_corpus_loads_without_leaks_or_repeated_texts(tmp_path: Path) -> None:
    config = FileData(
        kind="jsonl",
        path=DEMO / "corpus.jsonl",
        columns=Columns(meta=["topic", "hard"]),
        split=ColumnSplit(),
    )

    report = prepare(config, load_task("sentiment"), 13, tmp_path)

    assert [part.rows for part in report.parts.values()] == [810, 90, 300]
    assert (report.surplus_rows, report.conflicting_texts) == (0, 0)
    assert (report.duplicates.count, report.near_duplicates.count) == (0, 0)
    first = next(read_records(tmp_path / "test.parquet", Example))
    assert first.meta.keys() == {"topic", "hard"}


def test_the_licence_stands_beside_the_corpus() -> None:
    text = (DEMO / "LICENSE").read_text(encoding="utf-8")

    assert "CC0 1.0" in text
    assert "creativecommons.org/publicdomain/zero/1.0" in text
