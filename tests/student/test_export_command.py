"""`finstill export` on a run directory: form, model card, refusals in one sentence."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.config import RunConfig
from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.data.store import read_records, write_records
from common.records import Example, TrainingPair
from common.task import TaskDefinition
from student.runtime import read_export
from student.train import train_student
from workers.cli import main
from workers.commands.export import card_facts
from workers.run_directory import RunDirectory, create_run, open_run, write_json


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    make_pairs: Callable[[int], list[TrainingPair]],
) -> RunDirectory:
    student = tiny("seq2seq", "t5", max_rationale_tokens=8)
    training = TrainingConfig(max_steps=2, batch_size=8, evaluations=0, seed=3)
    config = RunConfig.model_validate(
        {
            "name": "small",
            "task": task.name,
            "data": {"kind": "jsonl", "path": "rows.jsonl", "licence": "CC0"},
            "teacher": {"kind": "recorded", "name": "llama", "answers": "answers.jsonl"},
            "student": student.model_dump(),
            "training": training.model_dump(),
        }
    )
    made = create_run(tmp_path_factory.mktemp("runs"), config)
    pairs = make_pairs(20)
    write_records(made.pairs("train", "teacher"), pairs[:12], TrainingPair)
    write_records(made.pairs("validation", "teacher"), pairs[12:], TrainingPair)
    write_json(
        made.labels_summary,
        {
            "terms": ["llama: its licence"],
            "teachers": [{"teacher": "llama", "models": ["Meta-Llama-3.1-8B"]}],
        },
    )
    train_student(
        student=student, training=training, task=task, train=pairs[:12], validation=pairs[12:],
        folder=made.system("student"), threads=1,
    )  # fmt: skip
    return made


def finstill(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def _home(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FINSTILL_RUNS", str(run.root.parent))
    monkeypatch.setenv("FINSTILL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("FINSTILL_THREADS", "1")
    # Whoever runs this may be logged in at the hub: nothing here may find their token.
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_export_writes_a_checked_folder_that_predict_runs(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shipped"

    code = finstill("export", run.run_id, "--format", "merged", "--out", str(out))

    assert code == 0
    assert "on 8 validation texts 0.00% other labels" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert card.split("---")[2].startswith(f"\n\n# Llama-{run.run_id}-student")
    assert "- Teacher llama: its licence" in card
    assert "- Data: CC0" in card
    assert finstill("predict", str(out), "Sales rose.", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert sum(answer["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
    assert answer["rationale"] is None


def test_a_card_of_financial_phrasebank_says_non_commercial_unasked(run: RunDirectory) -> None:
    config = RunConfig.model_validate(
        {
            "name": "small",
            "task": "sentiment",
            "data": {"kind": "fpb"},
            "student": {"architecture": "seq2seq", "model": "google/flan-t5-small"},
            "training": {"labels": "gold"},
        }
    )

    facts = card_facts(run, config, "student", run.system("student") / "model")

    assert [licence for licence in facts.licences if "CC BY-NC-SA 3.0" in licence]


def test_card_facts_count_the_test_texts_this_students_training_has_seen(
    run: RunDirectory, tmp_path: Path
) -> None:
    shutil.copytree(run.root, tmp_path / run.run_id)
    own, config = open_run(tmp_path, run.run_id)
    folder = own.system("student") / "model"
    trained = next(read_records(own.pairs("train", "teacher"), TrainingPair)).text
    chosen = next(read_records(own.pairs("validation", "teacher"), TrainingPair)).text
    texts = [trained.upper(), chosen, "Nobody has read this."]

    before = card_facts(own, config, "student", folder)
    test = [Example(id=f"t{i}", text=text, label="neutral") for i, text in enumerate(texts)]
    write_records(own.part("test"), test, Example)
    near = {"count": 5, "cosine": 0.8, "ids": [], "note": ""}
    write_json(own.split_file, {"near_duplicates": near})
    after = card_facts(own, config, "student", folder)

    assert (before.seen, before.near) == (None, None)
    assert (after.seen, after.near, after.near_cosine) == (2, 5, 0.8)


@pytest.mark.parametrize("part", ["validation", "train"])
def test_export_names_the_part_whose_texts_it_was_compared_on(
    run: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    part: str,
) -> None:
    shutil.copytree(run.root, tmp_path / "runs" / run.run_id)
    monkeypatch.setenv("FINSTILL_RUNS", str(tmp_path / "runs"))
    own, _ = open_run(tmp_path / "runs", run.run_id)
    if part == "train":
        write_records(own.pairs("validation", "teacher"), [], TrainingPair)
    told = {"validation": "on 8 validation texts", "train": "on 12 training texts"}[part]
    out = tmp_path / "out"

    assert finstill("export", run.run_id, "--format", "merged", "--out", str(out)) == 0

    assert f"{told} 0.00% other labels" in capsys.readouterr().out
    assert f"Reloaded and compared with its student {told}: " in (out / "README.md").read_text()
    record = read_export(out)
    assert record is not None
    assert record.part == part


def test_the_record_of_an_export_made_before_parts_were_told_is_read(tmp_path: Path) -> None:
    old = {"format": "merged", "numbers": "float32", "finstill": "0", "check": {"texts": 9.0}}
    (tmp_path / "export.json").write_text(json.dumps(old))

    record = read_export(tmp_path)

    assert record is not None
    assert (record.part, record.texts) == (None, "texts")


def test_predict_computes_in_the_precision_it_is_told(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    def probabilities(*arguments: str) -> list[float]:
        assert finstill("predict", run.run_id, "Sales rose.", "--json", *arguments) == 0
        answer = json.loads(capsys.readouterr().out)
        return list(answer["probabilities"].values())

    usual = probabilities()
    coarse = probabilities("--precision", "bf16")

    # Whole weights are float32 as trained.
    assert probabilities("--precision", "as-trained") == usual
    assert probabilities("--precision", "float32") == usual
    assert coarse != usual
    assert coarse == pytest.approx(usual, abs=0.05)


@pytest.mark.parametrize(
    ("asked", "told"), [([], False), (["--rationale"], True), (["--no-rationale"], False)]
)
def test_predict_gives_a_reason_only_when_asked(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], asked: list[str], told: bool
) -> None:
    assert finstill("predict", run.run_id, "Sales rose.", "--json", *asked) == 0

    answer = json.loads(capsys.readouterr().out)
    assert (answer["rationale"] is not None) == told


@pytest.mark.parametrize("form", ["ctranslate2", "onnx"])
def test_predict_runs_from_an_int8_export(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    if find_spec({"onnx": "onnxruntime"}.get(form, form)) is None:
        pytest.skip(f"{form} needs the extra finstill[export]")
    out = tmp_path / "shipped"

    assert finstill("export", run.run_id, "--format", form, "--out", str(out)) == 0
    capsys.readouterr()
    assert finstill("predict", str(out), "Sales rose.", "--json", "--rationale") == 0

    told, noted = capsys.readouterr()
    answer = json.loads(told)
    assert ("its run does, and so does an hf or merged export" in noted) == (form == "onnx")
    assert noted.count("\n") == (form == "onnx")
    assert sum(answer["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
    assert (answer["rationale"] is None) == (form == "onnx")
    assert finstill("predict", str(out), "Sales rose.", "--precision", "bf16") == 2
    error = capsys.readouterr().err.strip()
    assert "--precision bf16" in error
    assert "an export that computes in int8" in error
    assert error.count("\n") == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"training": {"rationale_weight": 0}}, "this student has learnt labels only; one trained"),
        ({"training": {"labels": "gold"}}, "this student has learnt labels only; one trained with"),
        ({"summary": {"rationales": 0}}, "this student has learnt labels only; one trained with a"),
        ({}, ""),
    ],
)
def test_predict_says_why_a_student_gives_no_reason(
    run: RunDirectory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, dict[str, object]],
    why: str,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(run.system("student") / "model", folder)
    tree = json.loads((folder / "manifest.json").read_text())
    tree |= {part: {**tree[part], **values} for part, values in change.items()}
    (folder / "manifest.json").write_text(json.dumps(tree))

    for option in ("--rationale", "--no-rationale"):
        assert finstill("predict", str(folder), "Sales rose.", option) == 0
        noted = capsys.readouterr().err
        assert noted.count("\n") == (bool(why) and option == "--rationale")
        assert option == "--no-rationale" or why in noted


def test_predict_says_that_a_classifier_gives_no_reason(
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    make_pairs: Callable[[int], list[TrainingPair]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train_student(
        student=tiny("classifier", "bert"), task=task, train=make_pairs(8), validation=[],
        training=TrainingConfig(max_steps=1, batch_size=8, evaluations=0, seed=3),
        folder=tmp_path, threads=1,
    )  # fmt: skip

    assert finstill("predict", str(tmp_path / "model"), "Sales rose.", "--rationale") == 0

    assert "a classifier writes no rationales; a seq2seq or causal" in capsys.readouterr().err


def test_an_adapter_on_a_local_base_is_refused_before_anything_is_pushed(
    run: RunDirectory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(run.root, tmp_path / "runs" / run.run_id)
    monkeypatch.setenv("FINSTILL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    path = tmp_path / "runs" / run.run_id / "systems" / "student" / "model" / "manifest.json"
    tree = json.loads(path.read_text())
    tree |= {"base": str(tmp_path), "student": {**tree["student"], "lora": {"rank": 2}}}
    path.write_text(json.dumps(tree))

    code = finstill("export", run.run_id, "--push", "me/Llama-river")

    assert code == 2
    error = capsys.readouterr().err.strip()
    assert "use --format merged" in error
    assert error.count("\n") == 0
    assert not list((tmp_path / "runs").rglob("exports"))


def test_mistakes_get_one_sentence(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, told in [
        (["--system", "nobody"], "trained: student"),
        (["--push", "me/Llama-river"], "HF_TOKEN"),
        (["--push", "me/river"], "begins with 'Llama'"),
        (["--format", "merged", "--numbers", "int8"], "expected float32"),
    ]:
        code = finstill("export", run.run_id, *arguments)

        assert code == 2
        error = capsys.readouterr().err.strip()
        assert told in error
        assert error.count("\n") == 0


def test_help_tells_the_memory_an_export_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert finstill("export", "--help") == 0

    assert "4 bytes of RAM a weight" in " ".join(capsys.readouterr().out.split())


def test_a_bad_out_is_one_sentence(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/below"):
        code = finstill("export", run.run_id, "--out", str(tmp_path / out))

        assert code == 2
        error = capsys.readouterr().err.strip()
        assert f"cannot write to '{tmp_path / out}' (Not a directory)" in error
        assert error.count("\n") == 0
