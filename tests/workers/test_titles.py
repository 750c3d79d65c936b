"""What a system is called in the report: nothing is called step by step that learnt no reasons."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.config import validate_config
from workers.pipeline import LocalRun
from workers.run_directory import read_json
from workers.services import Settings

SENTENCES = {
    "Sales of unit {} rose sharply.": "positive",
    "Sales of unit {} fell sharply.": "negative",
    "Unit {} opens on Monday.": "neutral",
}
SMALL = {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 16, "vocabulary": 300}
TRAINING = {"max_steps": 1, "evaluations": 0, "report_to": ["none"]}


def system(architecture: str, family: str, **training: Any) -> dict[str, Any]:
    shape = {"family": family, **SMALL}
    student = {"architecture": architecture, "model": "tiny-random", "tiny": shape,
               "max_rationale_tokens": 8}  # fmt: skip
    return {"student": student, "training": {**TRAINING, **training}}


@pytest.fixture
def titles(tmp_path: Path) -> Any:
    """Title of each system of a run whose teacher gives `reason` with every label."""

    def judge(reason: str | None, baselines: dict[str, dict[str, Any]]) -> dict[str, str]:
        rows = [
            {"id": f"{split}{i}{label}", "text": text.format(i), "label": label, "split": split}
            for i in range(6)
            for split in ("train", "test")
            for text, label in SENTENCES.items()
            if split == "train" or i < 2
        ]
        for number, row in enumerate(rows):
            row["text"] += f" Note {number}."
        said = [{"id": r["id"], "label": r["label"], "rationale": reason} for r in rows]
        for name, table in (("rows", rows), ("said", said)):
            lines = (json.dumps(row) + "\n" for row in table)
            (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        config = {
            "name": "titles",
            "task": "sentiment",
            "data": {"kind": "jsonl", "path": str(tmp_path / "rows.jsonl"),
                     "split": {"kind": "column"}},
            "teacher": {"kind": "recorded", "name": "t", "answers": str(tmp_path / "said.jsonl"),
                        "rationale": "after_label" if reason else "none"},
            **system("seq2seq", "t5"),
            "baselines": {name: {"kind": "student", **b} for name, b in baselines.items()},
            "evaluation": {"bootstrap": 100, "rationale_rows": 1},
        }  # fmt: skip
        settings = Settings(
            redis_url=None, runs=tmp_path / "runs", state=tmp_path / "state", threads=1
        )
        work = LocalRun(settings, validate_config(config, "test"), "evaluate", lambda job: None)
        work.execute()
        found = {name: read_json(work.run.evaluation(name)) for name in ("student", *baselines)}
        return {name: report["system"]["title"] for name, report in found.items()}

    return judge


def test_gold_and_a_classifier_are_labels_only_whatever_the_weight(titles: Any) -> None:
    found = titles(
        "The figure moved.",
        {
            "twin": system("seq2seq", "t5", rationale_weight=0),
            "gold": system("seq2seq", "t5", labels="gold"),
            "encoder": system("classifier", "bert"),
        },
    )

    assert found == {
        "student": "T5 (tiny), step by step",
        "twin": "T5 (tiny), labels only",
        "gold": "T5 (tiny), labels only",
        "encoder": "BERT (tiny), labels only",
    }


def test_a_teacher_that_gave_no_reasons_taught_none(titles: Any) -> None:
    assert titles(None, {}) == {"student": "T5 (tiny), labels only"}
