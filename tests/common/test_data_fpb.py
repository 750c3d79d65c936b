"""The Financial PhraseBank: as released, zipped, from the hub's cache; the real one row for row."""

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from common.config.data import (
    FPB_REPOSITORY,
    Columns,
    FileData,
    FpbData,
    HubData,
    RandomSplit,
    TestOnly,
)
from common.data.fpb import FILES, HUB_FILE
from common.data.prepare import prepare
from common.data.report import SplitReport
from common.data.store import read_records
from common.errors import InputError
from common.records import Example
from common.task import TaskDefinition, load_task

# Invented sentences in the release's own form: an "@" inside, latin-1, a line that stands twice.
LINES = {
    50: [
        "The ferry line sold a ship .@neutral",
        "Write to ir@halla.example for the Älvsborg report .@neutral",
        "Halla 's profit fell .@negative",
        "Halla 's order book grew .@positive",
        "Halla 's order book grew .@positive",
        "A pier was painted .@neutral",
    ],
    66: [
        "Write to ir@halla.example for the Älvsborg report .@neutral",
        "Halla 's profit fell .@negative",
        "Halla 's order book grew .@positive",
        "Halla 's order book grew .@positive",
        "A pier was painted .@neutral",
    ],
    75: ["Halla 's profit fell .@negative", "Halla 's order book grew .@positive"],
    100: ["Halla 's profit fell .@negative"],
}


@pytest.fixture
def task() -> TaskDefinition:
    return load_task("sentiment")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "FinancialPhraseBank-v1.0"
    folder.mkdir()
    for level, lines in LINES.items():
        text = "".join(f"{line}\r\n" for line in lines)
        (folder / FILES[level]).write_bytes(text.encode("latin-1"))
    return folder


@pytest.fixture
def archive(release: Path, tmp_path: Path) -> Path:
    path = tmp_path / "FinancialPhraseBank-v1.0.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(release.iterdir()):
            packed.write(file, f"FinancialPhraseBank-v1.0/{file.name}")
            packed.writestr(f"__MACOSX/FinancialPhraseBank-v1.0/._{file.name}", b"\x00\x05")
    return path


def fpb(path: Path | None, **settings: Any) -> FpbData:
    return FpbData.model_validate(
        {"kind": "fpb", "path": path, "split": TestOnly(), "duplicates": "keep", **settings}
    )


def test_data_known_to_be_non_commercial_say_so_without_being_told() -> None:
    from_hub = HubData(kind="hub", repository="takala/financial_phrasebank")

    for data in (fpb(None), from_hub):
        (licence,) = data.licences
        assert "CC BY-NC-SA 3.0" in licence
    assert fpb(None, licence="mine").licences == ["mine"]
    assert HubData(kind="hub", repository="somebody/else").licences == []
    assert FileData(kind="csv", path=Path("a.csv")).licences == []


def loaded(config: FpbData, task: TaskDefinition, folder: Path) -> list[Example]:
    prepare(config, task, 1, folder)
    return list(read_records(folder / "test.parquet", Example))


def test_the_release_gives_texts_labels_ids_and_the_highest_agreement(
    release: Path, task: TaskDefinition, tmp_path: Path
) -> None:
    examples = loaded(fpb(release), task, tmp_path)

    assert [(e.id, e.label, e.meta["agreement"]) for e in examples] == [
        ("fpb-0000", "neutral", 50),
        ("fpb-0001", "neutral", 66),
        ("fpb-0002", "negative", 100),
        ("fpb-0003", "positive", 75),
        ("fpb-0004", "positive", 66),
        ("fpb-0005", "neutral", 66),
    ]
    assert examples[1].text == "Write to ir@halla.example for the Älvsborg report ."


def test_folder_zip_and_parent_folder_read_alike(
    release: Path, archive: Path, task: TaskDefinition, tmp_path: Path
) -> None:
    examples = loaded(fpb(release), task, tmp_path / "a")

    assert loaded(fpb(archive), task, tmp_path / "b") == examples
    assert loaded(fpb(release.parent), task, tmp_path / "c") == examples


def test_a_higher_agreement_keeps_the_ids_of_the_whole_release(
    release: Path, task: TaskDefinition, tmp_path: Path
) -> None:
    ids = {
        level: [e.id for e in loaded(fpb(release, agreement=level), task, tmp_path)]
        for level in FILES
    }

    assert ids[75] == ["fpb-0002", "fpb-0003"]
    assert ids[100] == ["fpb-0002"]
    assert {level: len(found) for level, found in ids.items()} == {50: 6, 66: 5, 75: 2, 100: 1}


def test_a_release_without_its_largest_file_numbers_rows_by_the_one_there_is(
    release: Path, task: TaskDefinition, tmp_path: Path
) -> None:
    for level in (50, 66, 75):
        (release / FILES[level]).unlink()

    assert [e.id for e in loaded(fpb(release, agreement=100), task, tmp_path)] == ["fpb100-0000"]
    with pytest.raises(
        InputError, match=r"does not hold Sentences_50Agree\.txt.*found: Sentences_All"
    ):
        loaded(fpb(release), task, tmp_path)


def test_what_is_no_release_is_refused(tmp_path: Path, task: TaskDefinition) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 not quite")
    (tmp_path / "FinancialPhraseBank.zp").write_bytes(b"")
    (tmp_path / FILES[50]).write_bytes(b"a sentence without its label\r\n")

    for name, expected in [
        ("empty", "found: none of its files"),
        ("broken.zip", r"neither a folder, a \.jsonl nor a zip"),
        ("FinancialPhraseBank.zip", r"did you mean 'FinancialPhraseBank\.zp'"),
        ("", r"line 1 of .*Sentences_50Agree\.txt is not of the form sentence@label"),
    ]:
        with pytest.raises(InputError, match=expected):
            loaded(fpb(tmp_path / name), task, tmp_path / "out")


def test_without_a_path_the_zip_comes_from_the_hub(
    archive: Path, task: TaskDefinition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is doubled by a filled local cache: what the hub client itself reads offline."""
    cache = tmp_path / "hub"
    repository = cache / f"datasets--{FPB_REPOSITORY.replace('/', '--')}"
    revision = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    file = repository / "snapshots" / revision / HUB_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(archive.read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    assert len(loaded(fpb(None), task, tmp_path / "out")) == 6


def test_a_hub_out_of_reach_says_what_to_do_instead(
    task: TaskDefinition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(InputError, match=r"could not be fetched from the hub.*set data\.path"):
        loaded(fpb(None), task, tmp_path / "out")


# --- the real data, where they lie beside the checkout ---


def prepared(folder: Path, data: FpbData | FileData) -> SplitReport:
    return prepare(data, load_task("sentiment"), 13, folder)


def test_the_real_release_agrees_with_its_jsonl_in_ids_texts_labels_and_agreement(
    shared: Path, task: TaskDefinition, tmp_path: Path
) -> None:
    path = shared / "data" / "fpb" / "fpb.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    examples = loaded(fpb(shared / "data/fpb/FinancialPhraseBank-v1.0"), task, tmp_path / "a")

    assert [(e.id, e.text, e.label, e.meta["agreement"]) for e in examples] == [
        (r["id"], r["sentence"], r["label"], r["agreement"]) for r in rows
    ]
    assert loaded(fpb(path), task, tmp_path / "b") == examples
    assert Counter(e.meta["agreement"] for e in examples) == {100: 2264, 75: 1189, 66: 764, 50: 629}


def test_the_real_split_is_fingpts_row_for_row(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "fpb"
    published = json.loads((folder / "fingpt_split_seed42.json").read_text())
    data = FpbData(kind="fpb", path=folder / "FinancialPhraseBank-v1.0", duplicates="keep")

    report = prepared(tmp_path, data)

    parts = {
        name: {e.id for e in read_records(tmp_path / f"{name}.parquet", Example)}
        for name in ("train", "validation", "test")
    }
    assert parts["test"] == {f"fpb-{i:04d}" for i in published["test"]}
    assert parts["train"] | parts["validation"] == {f"fpb-{i:04d}" for i in published["train"]}
    assert (len(parts["train"]), len(parts["validation"]), len(parts["test"])) == (3271, 363, 1212)
    assert report.parts["test"].labels == {"negative": 145, "neutral": 729, "positive": 338}
    assert (report.surplus_rows, report.conflicting_texts) == (11, 2)
    assert report.duplicates.count == 6


@pytest.mark.parametrize(("cosine", "count"), [(0.8, 40), (0.9, 19)])
def test_near_duplicates_of_the_real_split_are_those_known(
    shared: Path, tmp_path: Path, cosine: float, count: int
) -> None:
    data = FpbData(
        kind="fpb",
        path=shared / "data/fpb/fpb.jsonl",
        duplicates="keep",
        near_duplicate_cosine=cosine,
    )

    report = prepared(tmp_path, data)

    assert report.near_duplicates.count == len(report.near_duplicates.ids) == count
    assert set(report.duplicates.ids) <= set(report.near_duplicates.ids)


def test_the_real_split_is_refused_unless_told_what_to_do_with_its_leaks(
    shared: Path, tmp_path: Path
) -> None:
    path = shared / "data/fpb/fpb.jsonl"

    with pytest.raises(InputError, match=r"6 test rows of Financial PhraseBank"):
        prepared(tmp_path, FpbData(kind="fpb", path=path))
    dropped = prepared(tmp_path, FpbData(kind="fpb", path=path, duplicates="drop_from_train"))
    assert dropped.duplicates.removed_from_train == 6
    assert dropped.parts["train"].rows + dropped.parts["validation"].rows == 3628


def test_a_random_split_of_the_real_data_parts_no_duplicates(shared: Path, tmp_path: Path) -> None:
    data = FpbData(kind="fpb", path=shared / "data/fpb/fpb.jsonl", split=RandomSplit())

    report = prepared(tmp_path, data)

    assert report.duplicates.count == 0
    assert abs(report.parts["test"].rows - 4846 * 0.2) <= 1


def test_twitter_news_loads_with_its_own_label_codes(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "tfns"
    codes = {"0": "negative", "1": "positive", "2": "neutral"}
    data = FileData(
        kind="csv",
        path=folder / "sent_train.csv",
        test_path=folder / "sent_valid.csv",
        label_map=codes,
        duplicates="drop_from_train",
    )
    transfer = FileData(
        kind="csv", path=folder / "sent_valid.csv", label_map=codes, split=TestOnly()
    )

    report = prepared(tmp_path, data)

    counts = {"negative": 347, "neutral": 1566, "positive": 475}
    assert report.parts["test"].labels == counts
    assert report.rows == 9543 + 2388
    assert prepared(tmp_path, transfer).parts["test"].labels == counts
    incomplete = data.model_copy(update={"label_map": {"0": "negative", "1": "positive"}})
    with pytest.raises(InputError, match=rf"does not cover '2' \({6178 + 1566} rows"):
        prepared(tmp_path, incomplete)


def test_phrasebank_rows_split_by_their_own_column(shared: Path, tmp_path: Path) -> None:
    data = FileData.model_validate(
        {
            "kind": "jsonl",
            "path": shared / "data/fpb/fpb.jsonl",
            "columns": Columns(text="sentence", split="fingpt_split", meta=["agreement"]),
            "split": {"kind": "column"},
            "duplicates": "keep",
        }
    )

    assert prepared(tmp_path, data).parts["test"].rows == 1212
