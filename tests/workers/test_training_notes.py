"""A micro-batch that had to be halved is told on the job's page and in the report."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.config import load_config
from common.task import CONFIGS
from workers.display import note
from workers.job_records import Job
from workers.pipeline import LocalRun
from workers.services import settings_from_environment

SMALL = [
    "data.train_limit=40",
    "data.test_limit=20",
    "training.max_steps=4",
    "training.evaluations=0",
    "training.batch_size=8",
    "training.micro_batch_size=8",
    "student.tiny.hidden=32",
    "student.tiny.feed_forward=64",
    "evaluation.rationale_rows=2",
    "evaluation.bootstrap=100",
]


def test_a_halved_micro_batch_is_told_while_it_trains_and_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from student.models.seq2seq import Seq2SeqStudent

    forward = Seq2SeqStudent.forward

    def small_device(self: Seq2SeqStudent, **batch: Any) -> Any:
        if self.training and len(batch["row_ids"]) > 4:
            raise MemoryError
        return forward(self, **batch)

    monkeypatch.setattr(Seq2SeqStudent, "forward", small_device)
    config = load_config(CONFIGS / "demo.yaml", SMALL).model_copy(update={"baselines": {}})
    settings = replace(settings_from_environment(), runs=tmp_path, threads=1)
    shown: list[str] = []

    def show(job: Job) -> None:
        shown.extend(note(stage) for stage in job.stages if stage.name == "train:student")

    with caplog.at_level(logging.WARNING, logger="student.ledger"):
        local = LocalRun(settings, config, "report", show)
        local.execute()

    sentence = "out of memory at step 1: micro-batch halved to 4, effective batch unchanged"
    assert [m for m in caplog.messages if sentence in m]
    assert [line for line in shown if sentence in line]
    page = local.run.report("html").read_text(encoding="utf-8")
    assert f": {sentence}</li>" in page
