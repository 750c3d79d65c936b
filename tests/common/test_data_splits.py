"""Splits go by folded text, are stratified, nested, and stable; checked on whole data sets."""

import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from common.config.data import (
    ColumnSplit,
    FileData,
    FingptSplit,
    RandomSplit,
    Split,
    TestOnly,
    TrainOnly,
)
from common.data.fold import fold, fold_key
from common.data.prepare import prepare
from common.data.report import SplitReport
from common.data.store import read_records
from common.errors import InputError
from common.records import Example
from common.task import TaskDefinition

JsonlFile = Callable[..., Path]
WORDS = ["margin", "rises", "falls", "outlook", "cut", "raised", "order", "plant", "late", "early"]


def sentences(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Distinct sentences, a quarter of them wet."""
    draw = random.Random(seed)
    return [
        {
            "id": f"s{i}",
            "text": f"{' '.join(draw.sample(WORDS, 6))} {i}",
            "label": "wet" if i % 4 == 0 else "dry",
        }
        for i in range(count)
    ]


def parts_of(folder: Path) -> dict[str, list[Example]]:
    names = ("train", "validation", "test")
    return {name: list(read_records(folder / f"{name}.parquet", Example)) for name in names}


def ids(examples: Sequence[Example]) -> set[str]:
    return {example.id for example in examples}


@pytest.fixture
def prepared(
    jsonl: JsonlFile, tmp_path: Path, weather: TaskDefinition
) -> Callable[..., tuple[SplitReport, dict[str, list[Example]]]]:
    def run(
        rows: list[dict[str, Any]], split: Split | None = None, seed: int = 1, **settings: Any
    ) -> tuple[SplitReport, dict[str, list[Example]]]:
        config = FileData(kind="jsonl", path=jsonl(rows), split=split or RandomSplit(), **settings)
        report = prepare(config, weather, seed, tmp_path / "out")
        return report, parts_of(tmp_path / "out")

    return run


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Net sales rose 5.5 % .", "net sales rose 5.5%"),
        ("\u201c\uff26\uff55\uff4c\uff4c\u201d width", '"Full" WIDTH'),
        ("snake_case", "snake case"),
        ("\ufb01nance", "finance"),
    ],
)
def test_texts_that_differ_in_case_spacing_and_marks_fold_alike(one: str, other: str) -> None:
    assert fold(one) == fold(other)
    assert fold_key(one) == fold_key(other)


def test_other_words_figures_and_symbols_fold_apart() -> None:
    texts = ["up 5 %", "up 6 %", "down 5 %", "+++", "---", "über", "uber"]

    assert len({fold(text) for text in texts}) == len(texts)


@given(st.text())
def test_a_folded_text_holds_letters_and_digits_only_if_the_text_held_any(text: str) -> None:
    plain = unicodedata.normalize("NFKC", text).lower()

    assert fold(text) == ("".join(c for c in plain if c.isalnum()) or plain.strip())


def test_fingpts_split_is_that_of_the_datasets_library(prepared: Any) -> None:
    rows = sentences(203)

    _, parts = prepared(rows, FingptSplit(seed=7), validation_share=0.2)

    published = Dataset.from_list(rows).train_test_split(seed=7)
    assert ids(parts["test"]) == set(published["test"]["id"])
    assert ids([*parts["train"], *parts["validation"]]) == set(published["train"]["id"])


def test_every_row_lands_in_one_part_in_the_order_of_the_source(prepared: Any) -> None:
    rows = sentences(200)

    report, parts = prepared(rows)

    assert sorted(e.id for part in parts.values() for e in part) == sorted(r["id"] for r in rows)
    for part in parts.values():
        assert [e.id for e in part] == [r["id"] for r in rows if r["id"] in ids(part)]
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 144,
        "validation": 16,
        "test": 40,
    }
    assert report.unused_rows == 0


def test_a_random_split_is_stratified_to_within_one_row(prepared: Any) -> None:
    report, parts = prepared(sentences(200))

    for part in parts.values():
        wet = sum(e.label == "wet" for e in part)
        assert abs(wet - len(part) / 4) <= 1
    assert report.parts["test"].labels == {
        label: count for label, count in Counter(e.label for e in parts["test"]).items()
    }


def test_a_random_split_does_not_depend_on_the_order_of_the_rows(prepared: Any) -> None:
    rows = sentences(200)
    shuffled = random.Random(3).sample(rows, len(rows))

    one, parts = prepared(rows)
    other, again = prepared(shuffled)

    assert {name: ids(part) for name, part in parts.items()} == {
        name: ids(part) for name, part in again.items()
    }
    assert one.fingerprint == other.fingerprint


def test_the_split_changes_with_its_own_seed_alone(prepared: Any) -> None:
    rows = sentences(200)

    _, base = prepared(rows, seed=1)
    _, other_run = prepared(rows, seed=2)
    _, other_split = prepared(rows, RandomSplit(seed=99), seed=1)

    assert ids(base["test"]) == ids(other_run["test"])
    assert ids(base["validation"]) == ids(other_run["validation"])
    assert ids(base["test"]) != ids(other_split["test"])


def test_texts_equal_after_folding_are_never_parted(prepared: Any) -> None:
    rows = sentences(120)
    twins = [{**row, "id": f"{row['id']}-twin", "text": row["text"].upper()} for row in rows]

    report, parts = prepared([*rows, *twins], validation_share=0.3)

    folds = [{fold(e.text) for e in part} for part in parts.values()]
    assert sum(map(len, folds)) == len(set.union(*folds)) == 120
    assert report.surplus_rows == 120
    assert report.duplicates.count == 0


def test_smaller_training_sets_lie_within_larger_ones_of_the_same_seed(prepared: Any) -> None:
    rows = sentences(500)
    fractions = [0.03, 0.06, 0.12, 0.25, 0.5, 1.0]

    runs = [prepared(rows, seed=5, train_fraction=f)[1] for f in fractions]

    for smaller, larger in pairwise(runs):
        assert ids(smaller["train"]) < ids(larger["train"])
        assert ids(smaller["validation"]) <= ids(larger["validation"])
        assert ids(smaller["test"]) == ids(larger["test"])
    for fraction, parts in zip(fractions, runs, strict=True):
        kept = [*parts["train"], *parts["validation"]]
        assert len(kept) == round(fraction * 400)
        wet = sum(e.label == "wet" for e in parts["train"])
        assert abs(wet - len(parts["train"]) / 4) <= 1.5


def test_another_seed_draws_another_subset(prepared: Any) -> None:
    rows = sentences(300)

    one, other = (prepared(rows, seed=s, train_limit=60)[1]["train"] for s in (1, 2))

    assert len(one) == len(other) == 54
    assert ids(one) != ids(other)


@pytest.mark.parametrize("limit", [1, 7, 33])
def test_limits_are_kept_and_count_the_validation_rows(prepared: Any, limit: int) -> None:
    _, parts = prepared(sentences(300), train_limit=limit, test_limit=limit)

    assert len(parts["train"]) + len(parts["validation"]) == limit
    assert len(parts["test"]) == limit


def test_a_column_can_split_and_its_other_values_are_left_out_and_counted(prepared: Any) -> None:
    words = ["train", "test", "dev", None]
    rows = [{**row, "split": words[i % 4]} for i, row in enumerate(sentences(80))]

    report, parts = prepared(rows, ColumnSplit(), validation_share=0)

    assert ids(parts["train"]) == {r["id"] for r in rows if r["split"] == "train"}
    assert ids(parts["test"]) == {r["id"] for r in rows if r["split"] == "test"}
    assert report.left_out == {"dev": 20, "": 20}
    assert report.unused_rows == 40


def leaky() -> list[dict[str, Any]]:
    rows = [{**row, "split": "test" if i < 20 else "train"} for i, row in enumerate(sentences(60))]
    return [
        *rows,
        {**rows[3], "id": "leak", "text": f"  {rows[3]['text'].upper()}!", "split": "train"},
    ]


def test_a_text_on_both_sides_is_refused_and_the_option_named(
    prepared: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"1 test rows .* set data\.duplicates: drop_from_train"):
        prepared(leaky(), ColumnSplit())

    assert not (tmp_path / "out").exists()


def test_a_text_on_both_sides_can_leave_the_training_part(prepared: Any) -> None:
    report, parts = prepared(leaky(), ColumnSplit(), duplicates="drop_from_train")

    assert "leak" not in ids([*parts["train"], *parts["validation"]])
    assert "s3" in ids(parts["test"])
    assert (report.duplicates.count, report.duplicates.removed_from_train) == (1, 1)
    assert report.duplicates.ids == ["s3"]


def test_a_text_on_both_sides_can_be_kept_and_counted(prepared: Any) -> None:
    report, parts = prepared(leaky(), ColumnSplit(), duplicates="keep")

    assert "leak" in ids([*parts["train"], *parts["validation"]])
    assert (report.duplicates.count, report.duplicates.removed_from_train) == (1, 0)


def test_a_source_can_be_all_test_or_all_training(prepared: Any) -> None:
    rows = sentences(40)
    bare = [{"id": row["id"], "text": row["text"]} for row in rows]

    _, judged = prepared(rows, TestOnly())
    report, labelled = prepared(bare, TrainOnly(), validation_share=0)

    assert [len(judged[p]) for p in ("train", "validation", "test")] == [0, 0, 40]
    assert [len(labelled[p]) for p in ("train", "validation", "test")] == [40, 0, 0]
    assert report.unlabelled_train == 40
    assert {e.label for e in labelled["train"]} == {None}


def test_without_gold_labels_only_the_training_part_can_be_drawn(prepared: Any) -> None:
    rows = sentences(100)
    half = [{**row, "label": row["label"] if i < 50 else None} for i, row in enumerate(rows)]
    none = [{**row, "label": None} for row in rows]

    report, parts = prepared(half)

    assert len(parts["test"]) == 10
    assert None not in {e.label for e in parts["test"]}
    assert report.unlabelled_train == 50
    with pytest.raises(InputError, match=r"train_only"):
        prepared(none)


def test_a_training_file_without_labels_goes_with_a_labelled_test_file(
    jsonl: JsonlFile, tmp_path: Path, weather: TaskDefinition
) -> None:
    rows = sentences(30)
    bare = jsonl([{"text": row["text"]} for row in rows[:20]], "texts.jsonl")
    gold = jsonl(rows[20:], "gold.jsonl")
    config = FileData(kind="jsonl", path=bare, test_path=gold, train_fraction=0.5)

    report = prepare(config, weather, 1, tmp_path / "out")

    assert {name: part.rows for name, part in report.parts.items()} == {
        "train": 9,
        "validation": 1,
        "test": 10,
    }
    assert report.unlabelled_train == 10
    assert parts_of(tmp_path / "out")["train"][0].id.startswith("texts-0000")


def test_the_fingerprint_follows_texts_labels_and_parts_and_no_path(
    jsonl: JsonlFile, tmp_path: Path, weather: TaskDefinition
) -> None:
    rows = sentences(60)

    def fingerprint(rows: list[dict[str, Any]], name: str, **settings: Any) -> str:
        config = FileData(kind="jsonl", path=jsonl(rows, name), **settings)
        return prepare(config, weather, 1, tmp_path / "out").fingerprint

    base = fingerprint(rows, "a.jsonl")
    other_label = [{**rows[0], "label": "dry"}, *rows[1:]]
    other_text = [{**rows[0], "text": "quite another sentence"}, *rows[1:]]
    spaced = [{**row, "text": f" {row['text']} ."} for row in rows]

    assert fingerprint(rows, "b.jsonl") == base
    assert fingerprint(spaced, "a.jsonl") == base
    assert fingerprint(other_label, "a.jsonl", split=TestOnly()) != fingerprint(
        rows, "a.jsonl", split=TestOnly()
    )
    assert fingerprint(other_text, "a.jsonl") != base
    assert fingerprint(rows, "a.jsonl", split=RandomSplit(seed=2)) != base


def test_surplus_rows_and_contradicting_labels_are_counted(prepared: Any) -> None:
    rows = sentences(40)
    again = [
        {**rows[0], "id": "same"},
        {**rows[1], "id": "other", "label": "wet"},
        {**rows[2], "id": "bare", "label": None},
    ]

    report, _ = prepared([*rows, *again])

    assert report.surplus_rows == 3
    assert report.conflicting_texts == 1


def test_a_rewritten_figure_makes_a_near_duplicate_and_another_sentence_does_not(
    prepared: Any,
) -> None:
    text = "the cement maker expects full-year operating profit to reach eur 12 million"
    rows = [
        {"id": "old", "text": text, "label": "dry", "split": "train"},
        {"id": "new", "text": text.replace("12", "14"), "label": "wet", "split": "test"},
        {"id": "far", "text": "a ferry left harbour on Sunday", "label": "wet", "split": "test"},
    ]

    report, _ = prepared(rows, ColumnSplit(), validation_share=0)

    assert report.near_duplicates.ids == ["new"]
    assert report.near_duplicates.count == 1
    assert report.duplicates.count == 0


def test_near_duplicates_of_a_very_large_set_are_not_counted_and_it_says_so(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.data.prepare.MAX_ROWS", 50)

    report, _ = prepared(sentences(51))

    assert report.near_duplicates.count is None
    assert "Near-duplicates were not counted: 51 rows" in " ".join(report.sentences())
    assert "51 rows" in report.near_duplicates.note


def test_the_report_says_in_sentences_what_was_found(prepared: Any) -> None:
    extra = [
        {**leaky()[25], "id": "two", "label": "wet"},
        {"id": "bare", "text": "no label yet", "split": "train"},
        {"id": "dev", "text": "for later", "split": "dev"},
    ]

    report, _ = prepared([*leaky(), *extra], ColumnSplit(), duplicates="drop_from_train")

    assert report.sentences() == [
        "rows: 64 rows read; 38 train, 4 validation, 20 test.",
        "Test texts that also stand in the training part: 1 (training rows taken out for them: 1).",
        "Test rows at TF-IDF cosine 0.8 or above to a training row: 0.",
        "Rows that repeat an earlier text: 2.",
        "Texts with two different gold labels: 1.",
        "Training rows without a gold label: 1.",
        "Left out by the split column: 1 of 'dev'.",
    ]
