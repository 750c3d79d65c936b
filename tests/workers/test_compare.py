"""What `finstill compare` compares, what it refuses, and what it leaves out and counts."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import workers.comparing as comparing
from common.config import load_data, validate_config
from common.config.data import FileData
from common.data.store import read_records
from common.errors import ConfigError, InputError
from common.evaluation.comparison import Comparison
from common.evaluation.render import render_markdown
from common.records import Prediction
from common.task import CONFIGS
from workers.cli import main
from workers.comparing import compare_runs
from workers.leak_guard import refuse_shown_texts
from workers.outside import outside_of
from workers.pipeline import LocalRun
from workers.run_directory import Run, RunDirectory, write_json
from workers.services import Settings
from workers.systems import Options

WORDS = {"positive": "climbed", "negative": "collapsed", "neutral": "stayed in Ghent"}
MakeRun = Callable[..., Run]


def sentences(places: Sequence[int], split: str, start: int = 0) -> list[dict[str, Any]]:
    """Three sentences a place, one a label; the id says nothing of the text."""
    rows: list[dict[str, Any]] = []
    for place in places:
        for label, word in WORDS.items():
            text = f"Orders at plant {place} {word}."
            rows.append({"id": f"{split}{start + len(rows)}", "text": text, "label": label,
                         "split": split})  # fmt: skip
    return rows


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(redis_url=None, runs=tmp_path / "runs", state=tmp_path / "state", threads=1)


@pytest.fixture
def made(tmp_path: Path, settings: Settings) -> MakeRun:
    """Runs two baselines on rows of one's own: nothing is trained."""

    def make(name: str, rows: list[dict[str, Any]], **data: Any) -> Run:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        tree = {
            "name": name,
            "task": "sentiment",
            "data": {"kind": "jsonl", "path": str(path), "split": {"kind": "column"}, **data},
            "baselines": {"majority": {"kind": "majority"}, "tfidf": {"kind": "tfidf",
                                                                       "labels": "gold"}},
            "evaluation": {"bootstrap": 200},
        }  # fmt: skip
        config = validate_config(tree, name)
        work = LocalRun(settings, config, "evaluate", lambda job: None)
        work.execute()
        return work.run, config

    return make


def accuracy(comparison: Comparison, system: str) -> float:
    report = next(r for r in comparison.systems if r.system.name.endswith(system))
    return report.metrics["accuracy"].value


def test_what_a_published_split_has_on_both_sides_is_kept_and_said(made: MakeRun) -> None:
    rows = sentences(range(12), "train") + sentences(range(11, 20), "test")
    run = made("published", rows, duplicates="keep")

    comparison = compare_runs([run])

    assert comparison.n == 27
    assert any("3 of these texts also stand in the training part" in n
               for n in comparison.context.notes)  # fmt: skip


def test_seen_texts_are_left_out_for_all_systems_and_counted(made: MakeRun) -> None:
    rows = sentences(range(12), "train") + sentences(range(11, 20), "test")
    run = made("published", rows, duplicates="keep")

    comparison = compare_runs([run], Options(drop_leaked=True))

    assert comparison.n == 24
    assert {report.n for report in comparison.systems} == {24}
    assert "3 of 27 texts were left out" in comparison.context.notes[0]
    assert not {text.text for text in comparison.texts} & {r["text"] for r in rows[:36]}


def test_a_split_that_one_run_alone_keeps_leaking_is_refused(made: MakeRun) -> None:
    test = sentences(range(20, 29), "test")
    clean = made("clean", sentences(range(12), "train") + test)
    leaky = made("leaky", sentences(range(9, 21), "train") + test, duplicates="keep")

    with pytest.raises(InputError, match=r"of the 27 texts .* leaky-\w+ has seen 3 in training"):
        compare_runs([clean, leaky])
    assert compare_runs([clean, leaky], Options(drop_leaked=True)).n == 24


def test_runs_with_different_test_texts_share_what_they_have_in_common(made: MakeRun) -> None:
    one = made("one", sentences(range(12), "train") + sentences(range(20, 29), "test"))
    moved = sentences(range(24, 33), "test", start=100)
    moved[0]["label"] = "neutral"
    two = made("two", sentences(range(9), "train") + moved)

    with pytest.raises(InputError, match=r"judged on different texts.*--common"):
        compare_runs([one, two])
    comparison = compare_runs([one, two], Options(common=True))

    assert comparison.n == 5 * 3 - 1
    assert comparison.dataset == "the common test texts of jsonl"
    said = {p.example_id: p.label for p in read_records(two[0].predictions("tfidf"), Prediction)}
    by_text = {row["text"]: said[row["id"]] for row in moved}
    place = [r.system.name for r in comparison.systems].index(f"{two[0].run_id}/tfidf")
    assert all(text.answers[place].label == by_text[text.text] for text in comparison.texts)


@pytest.mark.parametrize("large", [False, True])
def test_runs_on_different_parts_of_the_training_data_are_compared_on_their_own_test_part(
    made: MakeRun, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(comparing, "LARGE", 10)
    rows = sentences(range(12), "train") + sentences(range(20, 29), "test")
    whole = made("whole", rows)
    half = made("half", rows, train_fraction=0.5)

    comparison = compare_runs([whole, half])

    assert comparison.n == 27
    assert {r.n for r in comparison.systems} == {27}


def test_runs_without_a_common_text_are_refused(made: MakeRun) -> None:
    one = made("one", sentences(range(9), "train") + sentences(range(20, 24), "test"))
    two = made("two", sentences(range(9), "train") + sentences(range(30, 34), "test"))

    with pytest.raises(InputError, match="no text in common"):
        compare_runs([one, two], Options(common=True))


def other(tmp_path: Path, places: Sequence[int], **changes: Any) -> FileData:
    """Another data set, with codes for labels, all of it for the test."""
    codes = {"negative": 0, "positive": 1, "neutral": 2}
    lines = [f'"{r["text"].upper()}",{codes[r["label"]]}\n' for r in sentences(places, "x")]
    (tmp_path / "other.csv").write_text("text,label\n" + "".join(lines))
    tree = {
        "kind": "csv",
        "path": tmp_path / "other.csv",
        "label_map": {"0": "negative", "1": "positive", "2": "neutral"},
        "split": {"kind": "test_only"},
        **changes,
    }
    return FileData.model_validate(tree)


def test_systems_are_judged_on_another_data_set_by_the_same_command(
    made: MakeRun, settings: Settings, tmp_path: Path
) -> None:
    run = made("home", sentences(range(12), "train") + sentences(range(20, 29), "test"))
    data = other(tmp_path, range(40, 52))

    comparison = compare_runs([run], Options(on=data), settings)

    assert (comparison.dataset, comparison.n) == ("other", 36)
    assert accuracy(comparison, "tfidf") == 1.0
    assert accuracy(comparison, "majority") == pytest.approx(1 / 3)
    assert "Transfer" in comparison.context.notes[0]
    kept = sorted((run[0].root / "systems").glob("*/elsewhere/*.parquet"))
    stamps = [path.stat().st_mtime_ns for path in kept]
    compare_runs([run], Options(on=data), settings)
    assert len(kept) == 2
    assert [path.stat().st_mtime_ns for path in kept] == stamps


def test_a_run_is_not_judged_on_rows_of_another_data_set_that_it_has_seen(
    made: MakeRun, settings: Settings, tmp_path: Path
) -> None:
    run = made("home", sentences(range(12), "train") + sentences(range(20, 29), "test"))
    data = other(tmp_path, range(10, 20))

    with pytest.raises(InputError, match="has seen 6 in training"):
        compare_runs([run], Options(on=data), settings)
    comparison = compare_runs([run], Options(on=data, drop_leaked=True), settings)

    assert comparison.n == 24
    assert "6 of 30 texts were left out" in " ".join(comparison.context.notes)


def test_nothing_left_to_judge_is_said(made: MakeRun, settings: Settings, tmp_path: Path) -> None:
    run = made("home", sentences(range(12), "train") + sentences(range(20, 29), "test"))

    with pytest.raises(InputError, match="no text is left to judge"):
        compare_runs([run], Options(on=other(tmp_path, [3]), drop_leaked=True), settings)


def test_an_incomplete_label_map_is_refused(
    made: MakeRun, settings: Settings, tmp_path: Path
) -> None:
    run = made("home", sentences(range(12), "train") + sentences(range(20, 29), "test"))
    data = other(tmp_path, range(40, 44), label_map={"0": "negative", "1": "positive"})

    with pytest.raises((InputError, ConfigError), match="label_map does not cover '2'"):
        compare_runs([run], Options(on=data), settings)


@pytest.mark.parametrize("path", sorted((CONFIGS / "data").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_data_config_maps_all_labels(path: Path) -> None:
    data = load_data(path)

    assert data.label_map is not None
    assert set(data.label_map.values()) == set(WORDS)
    assert data.split.kind == "test_only"


def test_the_data_of_a_runs_config_can_be_judged_too(tmp_path: Path) -> None:
    data = load_data(CONFIGS / "demo.yaml", ["test_limit=30"])

    assert data.test_limit == 30
    with pytest.raises(ConfigError, match="no-such"):
        load_data(CONFIGS / "data" / "tfns.yaml", ["no-such=1"])


def test_examples_shown_to_a_teacher_do_not_stand_in_the_test_part(
    made: MakeRun, tmp_path: Path
) -> None:
    run, config = made("home", sentences(range(12), "train") + sentences(range(20, 29), "test"))
    answers = tmp_path / "answers.jsonl"
    answers.write_text("")
    prompt = (CONFIGS / "prompts" / "sentiment-v1.yaml").read_text(encoding="utf-8")
    shot = {"id": "s", "text": "ORDERS at plant 21 climbed", "label": "positive",
            "rationale": "More orders."}  # fmt: skip
    folder = tmp_path / "prompts"
    folder.mkdir()
    shown = prompt.replace("few_shots: []", f"few_shots: [{json.dumps(shot)}]")
    (folder / "sentiment-v1.yaml").write_text(shown, encoding="utf-8")
    tree = config.model_dump(mode="json")
    tree["teacher"] = {"kind": "recorded", "answers": str(answers)}

    with pytest.raises(InputError, match=r"shows 1 text\(s\) of the test part"):
        refuse_shown_texts(run, validate_config(tree, "shown"), folder)
    refuse_shown_texts(run, validate_config(tree, "not shown"))


@pytest.mark.parametrize("drop", [False, True])
def test_large_test_parts_are_compared_from_files_with_the_same_figures(
    made: MakeRun, monkeypatch: pytest.MonkeyPatch, drop: bool
) -> None:
    rows = sentences(range(12), "train") + sentences(range(11, 20), "test")
    run = made("published", rows, duplicates="keep")
    options = Options(drop_leaked=drop)
    small = compare_runs([run], options)
    monkeypatch.setattr(comparing, "LARGE", 5)

    large = compare_runs([run], options)

    assert large.n == small.n
    assert large.context.notes == small.context.notes
    assert [r.metrics for r in large.systems] == [r.metrics for r in small.systems]
    assert [p.verdict for p in large.pairs] == [p.verdict for p in small.pairs]


def test_the_gate_of_the_command_leaves_with_three(
    made: MakeRun, settings: Settings, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run, _ = made("home", sentences(range(12), "train") + sentences(range(20, 40), "test"))
    monkeypatch.setenv("FINSTILL_RUNS", str(settings.runs))

    codes = []
    for words in (["--fail-if-worse", "tfidf"], [], ["--fail-if-worse", "majority"]):
        with pytest.raises(SystemExit) as left:
            main(["compare", run.run_id, "--format", "md", *words])
        codes.append(left.value.code or 0)

    assert codes == [3, 0, 2]
    out, err = capsys.readouterr()
    assert f"`finstill compare {run.run_id}`" in out
    assert "'majority' is no other system" in err


def test_the_gate_takes_the_name_of_a_system_that_two_runs_have_alike(
    made: MakeRun, settings: Settings, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rows = sentences(range(12), "train") + sentences(range(20, 40), "test")
    one, two = (made(name, rows)[0].run_id for name in ("one", "two"))
    monkeypatch.setenv("FINSTILL_RUNS", str(settings.runs))

    codes = []
    for words in (["tfidf"], [f"{two}/tfidf"], [f"{two}/majority"], [f"{two}/lora"]):
        with pytest.raises(SystemExit) as left:
            main(["compare", one, two, "--format", "md", "--fail-if-worse", *words])
        codes.append(left.value.code or 0)

    assert codes == [3, 3, 0, 2]
    err = capsys.readouterr().err
    assert f"{two}/tfidf: the same recipe and the same answers as {one}/tfidf" in err
    assert f"{one}/majority, which is under test: not behind" in err


def recorded(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_teachers_answers_stand_in_the_table_and_beside_every_text(
    made: MakeRun, tmp_path: Path
) -> None:
    test = sentences(range(20, 29), "test")
    run = made("home", sentences(range(12), "train") + test)
    said = [{"id": r["id"], "label": r["label"], "rationale": f"Because: {r['text']}"}
            for r in test]  # fmt: skip
    file = recorded(tmp_path / "teacher.jsonl", said)

    comparison = compare_runs([run], Options(outside=[outside_of(f"sage={file}", "teacher")]))

    row = next(r for r in comparison.systems if r.system.role == "teacher")
    assert (row.system.name, row.metrics["accuracy"].value) == ("sage", 1.0)
    assert all(t.teacher and t.teacher.rationale == f"Because: {t.text}" for t in comparison.texts)


def test_a_teacher_that_left_texts_out_is_shown_but_not_in_the_table(
    made: MakeRun, tmp_path: Path
) -> None:
    test = sentences(range(20, 29), "test")
    run = made("home", sentences(range(12), "train") + test)
    file = recorded(tmp_path / "some.jsonl", [{"id": test[0]["id"], "label": "positive"}])

    comparison = compare_runs([run], Options(outside=[outside_of(f"sage={file}", "teacher")]))

    assert {r.system.role for r in comparison.systems} == {"baseline"}
    assert sum(text.teacher is not None for text in comparison.texts) == 1
    assert "sage answered 1 of the 27 judged texts" in " ".join(comparison.context.notes)
    with pytest.raises(InputError, match="to 1 of the 27 judged texts"):
        compare_runs([run], Options(outside=[outside_of(f"other={file}", "with")]))


def test_generated_text_is_read_strictly_and_leniently_beside(
    made: MakeRun, tmp_path: Path
) -> None:
    test = sentences(range(20, 29), "test")
    run = made("home", sentences(range(12), "train") + test)
    said = [{"id": r["id"], "raw": f"{r['label']}"} for r in test]
    said[0]["raw"] = f"It seems {test[0]['label']} to me."
    said[1]["raw"] = "Nobody knows."
    file = recorded(tmp_path / "generated.jsonl", said)

    comparison = compare_runs([run], Options(outside=[outside_of(f"fingpt={file}", "with")]))

    row = next(r for r in comparison.systems if r.system.name == "fingpt")
    assert row.unparseable == 2
    assert row.metrics["accuracy"].value == pytest.approx(25 / 27)
    assert row.lenient is not None
    assert row.lenient.metrics["accuracy"].value == pytest.approx(26 / 27)
    assert "Lenient accuracy" in render_markdown(comparison)


@pytest.mark.parametrize("word", ["sage", "=file", "sage=", "a/b=file"])
def test_answers_from_elsewhere_need_a_name_and_a_file(word: str) -> None:
    with pytest.raises(InputError, match="NAME=FILE"):
        outside_of(word, "with")


def test_all_writes_a_folder_with_everybodys_answers(
    made: MakeRun, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = sentences(range(20, 29), "test")
    run, _ = made("home", sentences(range(12), "train") + test)
    monkeypatch.setenv("FINSTILL_RUNS", str(settings.runs))
    folder = tmp_path / "new" / "report"

    with pytest.raises(SystemExit) as left:
        main(["compare", run.run_id, "--format", "all", "--out", str(folder)])

    assert not left.value.code
    assert {p.name for p in folder.iterdir()} == {f"report.{s}" for s in
                                                  ("html", "md", "json", "parquet")}  # fmt: skip
    rows = pq.read_table(folder / "report.parquet").to_pylist()
    assert [(r["system"], r["id"]) for r in rows[:2]] == [("majority", "test0"),
                                                         ("majority", "test1")]  # fmt: skip
    assert len(rows) == 2 * 27
    report = json.loads((folder / "report.json").read_text())
    for system in report["systems"]:
        mine = [row["right"] for row in rows if row["system"] == system["system"]["name"]]
        assert sum(mine) / 27 == pytest.approx(system["metrics"]["accuracy"]["value"])
    tfidf = [row for row in rows if row["system"] == "tfidf"]
    assert all(sum(row[f"probability_{n}"] for n in WORDS) == pytest.approx(1) for row in tfidf)


def test_a_report_of_another_version_is_told_from_a_broken_program(tmp_path: Path) -> None:
    from rich.console import Console

    from workers.commands.tables import print_report

    run = RunDirectory(tmp_path / "small-0123456789")
    write_json(run.report("json"), {"schema_version": 1})

    with pytest.raises(InputError, match="finstill compare small-0123456789"):
        print_report(Console(), run)
