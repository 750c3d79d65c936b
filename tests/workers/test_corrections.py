"""Corrections last, in order, and count as gold."""

import json
from collections import Counter
from pathlib import Path

import pytest

from common.config import RunConfig, validate_config
from common.data.store import read_records
from common.errors import InputError
from common.records import Example, TrainingPair
from workers.corrections import Correction, Corrections, corrected
from workers.graph import fingerprint, is_done, ready_stages, stages_of
from workers.pipeline import LocalRun
from workers.run_directory import RunDirectory, read_json
from workers.services import Settings


def said(text: str, label: str | None, kind: str = "correct", at: float = 1.0) -> Correction:
    return Correction.model_validate(
        {"text": text, "label": label, "before": None, "author": "Ada", "at": at, "kind": kind}
    )


def test_the_last_word_on_a_text_counts_whatever_its_case(tmp_path: Path) -> None:
    corrections = Corrections(tmp_path)
    corrections.add("sentiment", said("Sales rose.", "neutral"))
    corrections.add("sentiment", said("sales ROSE", "positive", at=2.0))

    labels = corrections.labels("sentiment")

    assert corrected(Example(id="a", text="Sales rose!", label="negative"), labels).label == (
        "positive"
    )
    assert corrected(Example(id="b", text="Other"), labels).label is None
    assert len(corrections.history("sentiment")) == 2


def test_a_flag_or_a_withdrawal_leaves_the_label(tmp_path: Path) -> None:
    corrections = Corrections(tmp_path)
    corrections.add("sentiment", said("Sales rose.", None, "flag"))
    corrections.add("sentiment", said("Sales fell.", "negative"))
    corrections.add("sentiment", said("Sales fell.", None, "withdraw"))

    assert corrections.labels("sentiment") == {}
    assert list(corrections.export("sentiment")) == []
    assert len(corrections.latest("sentiment")) == 1


def test_a_line_cut_off_by_a_crash_costs_only_itself(tmp_path: Path) -> None:
    corrections = Corrections(tmp_path)
    corrections.add("sentiment", said("Sales rose.", "positive"))
    with (tmp_path / "sentiment.jsonl").open("a") as stream:
        stream.write('{"text": "Sal\n')
    corrections.add("sentiment", said("Sales fell.", "negative"))

    assert len(corrections.history("sentiment")) == 2


def test_a_task_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name of no task"):
        Corrections(tmp_path).add("../x", said("a", "positive"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(redis_url=None, runs=tmp_path / "runs", state=tmp_path / "state", threads=1)


def write_data(folder: Path) -> RunConfig:
    """Twelve rows, their teacher's answers, a student of the teacher and one of the gold."""
    rows = [
        {
            "id": f"{split}{i}{label[0]}",
            "text": f"{text} {split} {i}.",
            "label": label,
            "split": split,
        }
        for i in range(3)
        for split in ("train", "test")
        for text, label in (("Sales rose in", "positive"), ("Sales fell in", "negative"))
    ]
    answers = [{**row, "rationale": "The figure moved as told."} for row in rows]
    for name, table in (("rows", rows), ("answers", answers)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    tiny = {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 16, "vocabulary": 300}
    student = {"architecture": "seq2seq", "model": "tiny-random", "tiny": tiny}
    training = {"max_steps": 1, "evaluations": 0, "rationale_weight": 0}
    tree = {
        "name": "small",
        "task": "sentiment",
        "data": {"kind": "jsonl", "path": str(folder / "rows.jsonl"), "split": {"kind": "column"},
                 "validation_share": 0},
        "teacher": {"kind": "recorded", "name": "t", "answers": str(folder / "answers.jsonl")},
        "student": student,
        "training": training,
        "baselines": {
            "gold": {"kind": "student", "student": student, "title": "on gold",
                     "training": {**training, "labels": "gold"}},
        },
        "evaluation": {"bootstrap": 100},
    }  # fmt: skip
    return validate_config(tree, "test")


def markers(run: RunDirectory) -> dict[str, int]:
    return {p.stem: p.stat().st_mtime_ns for p in (run.root / "stages").iterdir()}


def test_a_correction_is_gold_in_the_next_run(settings: Settings, tmp_path: Path) -> None:
    config = write_data(tmp_path)
    first = LocalRun(settings, config, "label", lambda job: None)
    first.execute()
    run, before = first.run, markers(first.run)
    split = read_json(run.split_file)
    corrections = Corrections(settings.runs / ".corrections")
    corrections.add("sentiment", said("SALES rose in train 1", "neutral"))
    corrections.add("sentiment", said("Sales fell in test 2", "neutral"))
    corrections.add("sentiment", said("A text of another data set", "neutral"))

    LocalRun(settings, config, "label", lambda job: None).execute()

    after = markers(run)
    assert {name for name in after if after[name] != before[name]} == {
        "prepare",
        "probe",
        "collect",
    }
    gold = {e.id: e.label for p in ("train", "test") for e in read_records(run.part(p), Example)}
    assert [gold["train1p"], gold["test2n"]] == ["neutral", "neutral"]
    assert Counter(gold.values()) == {"positive": 5, "negative": 5, "neutral": 2}
    pairs = read_records(run.pairs("train", "gold"), TrainingPair)
    assert {pair.example_id: pair.label for pair in pairs}["train1p"] == "neutral"
    taught = read_records(run.pairs("train", "teacher"), TrainingPair)
    assert {pair.example_id: pair.label for pair in taught}["train1p"] == "positive"
    now = read_json(run.split_file)
    assert now["fingerprint"] != split["fingerprint"]
    assert now["corrected"] == {"train": 1, "test": 1}
    assert now["parts"]["test"]["labels"] == {"positive": 3, "negative": 2, "neutral": 1}


def test_only_what_reads_gold_is_done_again_and_nothing_is_judged_by_the_old(
    settings: Settings, tmp_path: Path
) -> None:
    config = write_data(tmp_path)
    run = LocalRun(settings, config, "report", lambda job: None).run
    for name in stages_of(config):
        run.mark_done(name, fingerprint(config, name), 1.0)
    corrections = Corrections(settings.runs / ".corrections")
    corrections.add("sentiment", said("Sales rose in train 1", "neutral"))

    corrections.pin(run, "sentiment", ["positive", "negative", "neutral"])

    done = {name for name in stages_of(config) if is_done(run, config, name)}
    assert done == {"label", "train:student"}
    assert [stage.name for stage in ready_stages(run, config)] == ["prepare"]


def test_a_student_of_several_teachers_depends_on_the_gold_that_weighs_them(
    tmp_path: Path,
) -> None:
    config = write_data(tmp_path)
    both = [config.teacher, config.teacher.model_copy(update={"name": "u"})]  # type: ignore[union-attr]
    several = config.model_copy(update={"teacher": None, "teachers": both})

    def changed(config: RunConfig) -> bool:
        said = {"sales rose": "neutral"}
        return fingerprint(config, "train:student") != fingerprint(config, "train:student", said)

    assert [changed(config), changed(several)] == [False, True]


def test_what_no_row_of_a_run_would_notice_redoes_nothing_and_a_withdrawal_redoes(
    settings: Settings, tmp_path: Path
) -> None:
    config = write_data(tmp_path)
    corrections = Corrections(settings.runs / ".corrections")
    corrections.add("sentiment", said("Sales rose in train 1", "neutral"))
    run = LocalRun(settings, config, "label", lambda job: None).run
    LocalRun(settings, config, "label", lambda job: None).execute()
    before = markers(run)

    corrections.add("sentiment", said("Elsewhere", "neutral"))
    corrections.add("sentiment", said("Sales fell in train 1", "negative"))  # as the gold says
    corrections.add("sentiment", said("Sales fell in train 2", "no label of the task"))
    LocalRun(settings, config, "label", lambda job: None).execute()
    assert markers(run) == before

    corrections.add("sentiment", said("Sales rose in train 1", None, "withdraw"))
    LocalRun(settings, config, "label", lambda job: None).execute()
    assert markers(run)["prepare"] != before["prepare"]
    assert all(e.label != "neutral" for e in read_records(run.part("train"), Example))


def test_a_correction_made_meanwhile_waits_for_the_next_submission(
    settings: Settings, tmp_path: Path
) -> None:
    config = write_data(tmp_path)
    run = LocalRun(settings, config, "label", lambda job: None).run
    run.mark_done("prepare", fingerprint(config, "prepare", run.corrections), 1.0)

    Corrections(settings.runs / ".corrections").add(
        "sentiment", said("Sales rose in train 1", "neutral")
    )

    assert is_done(run, config, "prepare")
    LocalRun(settings, config, "label", lambda job: None)
    assert not is_done(run, config, "prepare")
