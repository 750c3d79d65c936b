"""The collecting stage: answers of several teachers become pairs, a labelled set and its card."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from common.config import RunConfig, validate_config
from common.data.store import read_records, write_records
from common.errors import ConfigError, InputError, UsageError
from common.records import Answer, Example, TrainingPair
from teacher.aggregate import Dropped
from workers.run_directory import create_run, read_json
from workers.services import Settings
from workers.stages.context import StageContext
from workers.stages.data import prepare_data
from workers.stages.labels import label_all_chunks, probe_teachers
from workers.stages.pairs import collect_pairs

# text, gold, what cheap says (two samples), what dear says with its confidence
Said = tuple[str | None, float | None]
ROWS: list[tuple[str, str, list[str | None], Said]] = [
    ("The mill doubled its profit.", "positive", ["positive", "positive"], ("positive", 0.95)),
    ("The mill halved its profit.", "negative", ["negative", "negative"], ("negative", 0.95)),
    ("The mill has two gates.", "neutral", ["neutral", "neutral"], ("neutral", 0.95)),
    ("The mill closed a shift.", "negative", ["neutral", "negative"], ("negative", 0.92)),
    ("The mill won an order.", "positive", ["neutral", "neutral"], ("positive", 0.93)),
    ("The mill was painted.", "neutral", ["positive", "neutral"], ("neutral", 0.40)),
    ("The mill lost its buyer.", "negative", ["negative", "negative"], ("negative", 0.97)),
    ("The mill keeps its books.", "neutral", [None, None], (None, None)),
]
Collect = Callable[..., StageContext]


@pytest.fixture
def collect(tmp_path: Path) -> Collect:
    """Prepares, labels and collects a run of the rows above; gives its context."""

    def run(config: Mapping[str, Any] | None = None, stop_before: str = "") -> StageContext:
        context = _context(tmp_path, _config(tmp_path, config or {}))
        prepare_data(context)
        label_all_chunks(context)
        if stop_before != "collect":
            collect_pairs(context)
        return context

    _write_files(tmp_path)
    return run


def _write_files(folder: Path) -> None:
    texts: list[dict[str, object]] = []
    cheap: list[dict[str, object]] = []
    dear: list[dict[str, object]] = []
    for i, (text, gold, samples, (label, confidence)) in enumerate(ROWS):
        texts.append({"id": f"r{i}", "text": text, "label": gold})
        for sample, said in enumerate(samples):
            reason = f"Sample {sample} weighs what was reported." if said else None
            asked = {"id": f"r{i}", "teacher": "gristmill-7b", "sample": sample}
            cheap.append({**asked, "label": said, "rationale": reason})
        if label:
            reason = "The report speaks for itself here."
            answer = {"label": label, "confidence": confidence, "rationale": reason}
            dear.append({"id": f"r{i}", "teacher": "claude", **answer})
    for name, rows in (("texts", texts), ("cheap", cheap), ("dear", dear)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def _teacher(folder: Path, name: str, **more: object) -> dict[str, object]:
    return {"kind": "recorded", "name": name, "answers": str(folder / f"{name}.jsonl"), **more}


def _config(folder: Path, changes: Mapping[str, Any]) -> RunConfig:
    tree = {
        "name": "mill",
        "task": "sentiment",
        "data": {
            "kind": "jsonl",
            "path": str(folder / "texts.jsonl"),
            "split": {"kind": "train_only"},
            "validation_share": 0.25,
        },
        "teachers": [_teacher(folder, "cheap", samples=2), _teacher(folder, "dear")],
        "aggregation": {"kind": "vote"},
        "labelling": {"chunk_rows": 3},
        **changes,
    }
    return validate_config(tree, "the test's config")


def _context(folder: Path, config: RunConfig) -> StageContext:
    settings = Settings(redis_url=None, runs=folder / "runs", state=folder / "state", threads=1)
    return StageContext(
        settings=settings,
        run=create_run(settings.runs, config),
        config=config,
        report=lambda *_args, **_more: None,
        cancelled=lambda: False,
    )


def pairs_by_text(context: StageContext) -> dict[str, TrainingPair]:
    return {
        pair.text: pair
        for part in ("train", "validation")
        for pair in read_records(context.run.pairs(part, "teacher"), TrainingPair)
    }


def test_each_text_becomes_one_pair_with_the_teachers_soft_label(collect: Collect) -> None:
    found = pairs_by_text(collect())

    assert len(found) == 7
    shift = found["The mill closed a shift."]
    assert shift.label == "negative"  # cheap is split, dear is whole
    assert shift.probabilities == pytest.approx({"negative": 0.75, "neutral": 0.25, "positive": 0})
    assert shift.confidence == pytest.approx(0.75)
    assert shift.weight == 1.0
    assert shift.rationale


def test_parts_keep_their_texts(collect: Collect) -> None:
    run = collect().run

    for part in ("train", "validation"):
        texts = {example.text for example in read_records(run.part(part), Example)}
        labelled = [pair.text for pair in read_records(run.pairs(part, "teacher"), TrainingPair)]
        golden = [pair.text for pair in read_records(run.pairs(part, "gold"), TrainingPair)]
        assert set(labelled) <= texts
        assert set(golden) == texts


def test_a_text_without_an_answer_is_dropped_with_its_reason(collect: Collect) -> None:
    context = collect()

    (dropped,) = read_records(context.run.labels / "dropped.parquet", Dropped)
    summary = read_json(context.run.labels_summary)
    assert dropped.example_id == "r7"
    assert summary["kept"] == 7
    assert summary["dropped"] == {dropped.reason: 1}
    assert dropped.said == {"cheap": [None, None], "dear": [None]}


def test_the_labelled_set_can_be_read_without_finstill(collect: Collect) -> None:
    context = collect()

    table = pq.read_table(context.run.labels / "labelled.parquet")
    rows = {row["text"]: row for row in table.to_pylist()}
    assert table.column_names == [
        "id", "text", "part", "label",
        "probability_negative", "probability_neutral", "probability_positive",
        "confidence", "rationale", "rationale_teacher", "said",
    ]  # fmt: skip
    shift = rows["The mill closed a shift."]
    assert shift["probability_neutral"] == pytest.approx(0.25)
    assert json.loads(shift["said"]) == {"cheap": ["neutral", "negative"], "dear": ["negative"]}
    assert len(rows) == 7


def test_the_summary_and_the_card_tell_agreement_cost_and_terms(collect: Collect) -> None:
    context = collect()

    summary = read_json(context.run.labels_summary)
    card = (context.run.labels / "DATA_CARD.md").read_text(encoding="utf-8")
    (pair,) = summary["agreement"]
    # cheap says neutral on the order; its ties go to the earlier sample: neutral and positive
    assert (pair["texts"], pair["agreed"]) == (7, pytest.approx(4 / 7))
    assert [row["teacher"] for row in summary["teachers"]] == ["cheap", "dear"]
    assert summary["gold_rows"] == 7
    assert "## Dropped rows\n\n| reason | texts |\n| --- | --- |\n| not_recorded | 1 |" in card
    assert "Cohen's κ" in card
    assert "Anthropic API (training under conditions)" in card


def test_the_data_card_tells_the_licence_the_config_gives(collect: Collect, tmp_path: Path) -> None:
    data = {
        "kind": "jsonl",
        "path": str(tmp_path / "texts.jsonl"),
        "licence": "Texts: CC0, invented mills.",
        "split": {"kind": "train_only"},
    }

    told = (collect({"data": data}).run.labels / "DATA_CARD.md").read_text(encoding="utf-8")
    silent = (collect().run.labels / "DATA_CARD.md").read_text(encoding="utf-8")

    assert "- Texts: CC0, invented mills." in told
    assert "the licence of the source applies" not in told
    assert "the licence of the source applies" in silent


def test_answers_lie_together_by_text_in_the_order_of_the_rows(collect: Collect) -> None:
    run = collect().run

    order = [example.id for example in read_records(run.part("to_label"), Example)]
    seen = [answer.example_id for answer in read_records(run.answers, Answer)]
    assert list(dict.fromkeys(seen)) == order
    assert seen == sorted(seen, key=order.index)


def test_a_cascade_asks_the_dear_teacher_only_where_the_cheap_one_wavers(collect: Collect) -> None:
    context = collect({"aggregation": {"kind": "cascade"}})

    answers = list(read_records(context.run.answers, Answer))
    asked = {answer.example_id for answer in answers if answer.teacher == "dear"}
    found = pairs_by_text(context)
    assert asked == {"r3", "r5", "r7"}
    assert found["The mill closed a shift."].label == "negative"
    assert found["The mill won an order."].label == "neutral"  # cheap was sure, and wrong
    assert read_json(context.run.labels_summary)["teachers"][1]["texts"] == 3


def test_texts_the_teachers_are_unsure_of_can_be_left_out(collect: Collect) -> None:
    settings = {"chunk_rows": 3, "min_confidence": 0.6}

    context = collect({"labelling": settings})

    summary = read_json(context.run.labels_summary)
    # the order is 0.5 / 0.5; shift and painting are 0.75
    assert summary["dropped"]["low_confidence"] == 1
    assert "The mill won an order." not in pairs_by_text(context)


def test_one_teacher_keeps_its_stated_confidence(collect: Collect, tmp_path: Path) -> None:
    context = collect({"teachers": [_teacher(tmp_path, "dear")], "aggregation": {"kind": "single"}})

    found = pairs_by_text(context)
    assert found["The mill lost its buyer."].confidence == 0.97
    assert found["The mill lost its buyer."].probabilities is None


def test_all_gold_judges_a_teacher_that_is_compared_with_nobody(
    collect: Collect, tmp_path: Path
) -> None:
    context = collect({"teachers": [_teacher(tmp_path, "dear")], "aggregation": {"kind": "single"}})

    (row,) = read_json(context.run.labels_summary)["teachers"]
    assert (row["judged"], row["accuracy"]["value"]) == (7, 1.0)


def test_a_run_without_teachers_has_gold_pairs_alone(tmp_path: Path) -> None:
    _write_files(tmp_path)
    context = _context(tmp_path, _config(tmp_path, {"teachers": [], "aggregation": {}}))
    prepare_data(context)

    collect_pairs(context)

    assert read_json(context.run.labels_summary) == {}
    assert not context.run.pairs("train", "teacher").exists()
    assert len(list(read_records(context.run.pairs("train", "gold"), TrainingPair))) == 6


def test_answers_for_comparison_only_become_no_pairs(collect: Collect, tmp_path: Path) -> None:
    path = tmp_path / "dear.jsonl"
    collect(stop_before="collect")
    path.write_text(path.read_text().replace('"claude"', '"gpt-4-0125-preview"'), encoding="utf-8")

    with pytest.raises(UsageError, match=r"OpenAI API.*labelling\.accept_terms=\[openai\]"):
        collect()

    accepted = {"chunk_rows": 3, "accept_terms": ["openai"]}
    assert len(pairs_by_text(collect({"labelling": accepted}))) == 7


def test_two_teachers_of_one_name_are_refused(collect: Collect, tmp_path: Path) -> None:
    twins = [_teacher(tmp_path, "dear"), _teacher(tmp_path, "dear")]

    with pytest.raises(ConfigError, match="its own `name`"):
        collect({"teachers": twins})


def test_answers_that_belong_to_other_texts_are_refused(collect: Collect) -> None:
    context = collect(stop_before="collect")
    run = context.run
    examples = list(read_records(run.part("to_label"), Example))
    write_records(run.part("to_label"), examples[::-1], Example)

    with pytest.raises(InputError, match="do not belong together"):
        collect_pairs(context)


def test_terms_are_checked_before_the_first_question_is_paid(tmp_path: Path) -> None:
    _write_files(tmp_path)
    teachers = [_teacher(tmp_path, "cheap"), {**_teacher(tmp_path, "dear"), "name": "gpt-4o"}]
    context = _context(tmp_path, _config(tmp_path, {"teachers": teachers}))
    prepare_data(context)

    with pytest.raises(UsageError, match="teacher 'gpt-4o': OpenAI API"):
        probe_teachers(context)


@pytest.mark.parametrize("kind", ["weighted", "dawid_skene", "cascade"])
def test_a_config_with_one_teacher_cannot_ask_to_compare_several(tmp_path: Path, kind: str) -> None:
    alone = {"teachers": [_teacher(tmp_path, "dear")], "aggregation": {"kind": kind}}

    with pytest.raises(ConfigError, match="compares several teachers, got one"):
        _config(tmp_path, alone)
