"""Sources of every kind are read; what cannot be read gets one sentence that says where and why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from common.config.data import Columns, ColumnSplit, DataConfig, FileData, TestOnly
from common.data.leakage import leaked
from common.data.prepare import labelled_examples, prepare
from common.data.scan import scan
from common.data.store import read_records
from common.errors import ConfigError, InputError
from common.records import Example
from common.task import TaskDefinition

JsonlFile = Callable[..., Path]
ROWS = [
    {"id": "a", "text": "Rain over the delta, says Zoë", "label": "wet", "level": 3},
    {"id": "b", "text": 'A "clear, cold" night', "label": "dry", "level": 4},
]
LOADED = [Example(id=r["id"], text=r["text"], label=r["label"]) for r in ROWS]


def config(path: Path, kind: str = "jsonl", **settings: Any) -> FileData:
    return FileData.model_validate({"kind": kind, "path": path, "split": TestOnly(), **settings})


@pytest.fixture
def load(weather: TaskDefinition, tmp_path: Path) -> Callable[[DataConfig], list[Example]]:
    """The examples of a source that is all test."""

    def read(data: DataConfig) -> list[Example]:
        prepare(data, weather, 1, tmp_path / "out")
        return list(read_records(tmp_path / "out" / "test.parquet", Example))

    return read


Load = Callable[[DataConfig], list[Example]]


def csv_text(header: str = "id,text,label,level") -> str:
    rain, night = '"Rain over the delta, says Zoë"', '"A ""clear, cold"" night"'
    return f"{header}\r\na,{rain},wet,3\r\nb,{night},dry,4\r\n"


def test_jsonl_csv_and_parquet_give_the_same_examples(
    load: Load, jsonl: JsonlFile, tmp_path: Path
) -> None:
    csv = tmp_path / "rows.csv"
    csv.write_bytes(csv_text().encode())
    parquet = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), parquet)

    assert load(config(jsonl(ROWS))) == LOADED
    assert load(config(csv, "csv")) == LOADED
    assert load(config(parquet, "parquet")) == LOADED


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_encodings_and_byte_order_marks_are_understood(
    load: Load, tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(csv_text().encode(encoding))
    named = "utf-8" if encoding.startswith("utf-8") else encoding

    assert load(config(path, "csv", encoding=named)) == LOADED


def test_tabs_can_separate_cells(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("text\tlabel\nsun, at last\tdry\n", encoding="utf-8")

    assert [e.text for e in load(config(path, "csv", delimiter="\t"))] == ["sun, at last"]


def test_columns_have_the_names_the_config_gives_them(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(csv_text("key,sentence,gold,level").encode())
    columns = Columns(id="key", text="sentence", label="gold", meta=["level"])

    examples = load(config(path, "csv", columns=columns))

    assert [(e.id, e.label, e.meta) for e in examples] == [
        ("a", "wet", {"level": "3"}),
        ("b", "dry", {"level": "4"}),
    ]


def test_rows_without_ids_are_numbered_after_their_file(load: Load, jsonl: JsonlFile) -> None:
    path = jsonl([{"text": r["text"], "label": r["label"]} for r in ROWS], "storms.jsonl")

    assert [e.id for e in load(config(path))] == ["storms-000000", "storms-000001"]


def test_two_files_of_one_name_number_their_rows_apart(
    weather: TaskDefinition, jsonl: JsonlFile, tmp_path: Path
) -> None:
    (tmp_path / "gold").mkdir()
    train, test = (
        jsonl([{"text": "sleet"}]),
        jsonl([{"text": "sun", "label": "dry"}], "gold/rows.jsonl"),
    )

    prepare(FileData(kind="jsonl", path=train, test_path=test), weather, 1, tmp_path)

    (example,) = read_records(tmp_path / "test.parquet", Example)
    assert example.id == "rows-test-000000"


@pytest.mark.parametrize("code", [0, "0", 0.0])
def test_numeric_codes_are_mapped_however_the_source_writes_them(
    load: Load, jsonl: JsonlFile, code: object
) -> None:
    path = jsonl([{"text": "sleet", "label": 1}, {"text": "sun", "label": code}])

    examples = load(config(path, label_map={0: "dry", 1: "wet"}))

    assert [e.label for e in examples] == ["wet", "dry"]


def test_codes_of_a_parquet_column_with_gaps_are_codes_still(
    weather: TaskDefinition, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    table = {"text": ["sleet", "sun"], "label": [1.0, None], "split": ["test", "train"]}
    pq.write_table(pa.table(table), path)

    data = config(path, "parquet", label_map={"1": "wet"}, split=ColumnSplit())
    report = prepare(data, weather, 1, tmp_path / "out")

    assert report.parts["test"].labels == {"dry": 0, "wet": 1}
    assert report.unlabelled_train == 1


def test_aliases_and_capitals_of_gold_labels_are_read(load: Load, jsonl: JsonlFile) -> None:
    path = jsonl([{"text": "sun", "label": "Sunny"}, {"text": "sleet", "label": " WET "}])

    assert [e.label for e in load(config(path))] == ["dry", "wet"]


def test_an_incomplete_label_map_is_refused_with_every_missing_code(
    load: Load, jsonl: JsonlFile
) -> None:
    path = jsonl([{"text": f"t{i}", "label": i % 3} for i in range(9)])

    with pytest.raises(InputError) as caught:
        load(config(path, label_map={0: "dry"}))

    assert "data.label_map does not cover" in str(caught.value)
    assert "'1' (3 rows, first at line 2 of" in str(caught.value)
    assert "'2' (3 rows, first at line 3 of" in str(caught.value)


def test_a_label_map_to_a_label_the_task_lacks_is_refused(load: Load, jsonl: JsonlFile) -> None:
    with pytest.raises(ConfigError, match=r"label_map\.0: 'dri' .*did you mean 'dry'\?"):
        load(config(jsonl(ROWS), label_map={0: "dri"}))


def test_unknown_gold_labels_are_named_with_their_first_row_and_count(
    load: Load, jsonl: JsonlFile
) -> None:
    path = jsonl([*ROWS, {"text": "x", "label": "foggy"}, {"text": "y", "label": "foggy"}])

    with pytest.raises(InputError) as caught:
        load(config(path))

    assert "gold label 'foggy' (2 rows, first at line 3 of" in str(caught.value)
    assert "task 'weather' (dry, wet)" in str(caught.value)


BAD_LINES = [
    ('{"text": "a"', r"line 2 of .*rows\.jsonl is not JSON"),
    ('["a"]', r"line 2 of .*rows\.jsonl is a JSON list, not an object"),
    ('{"txt": "a"}', r"line 2 of .* has no column 'text', did you mean 'txt'\?"),
    ('{"text": " ", "label": "dry"}', r"line 2 of .*: column 'text' is empty"),
    ('{"text": 7, "label": "dry"}', r"line 2 of .*: column 'text' is no text \(got 7\)"),
    ('{"text": "a \\ud83d b", "label": "dry"}', r"line 2 of .* is not valid Unicode"),
    ('{"id": "a", "text": "b", "label": "dry"}', r"line 2 of .*: id 'a' stands already at line 1"),
    ('{"text": "b"}', r"1 of 2 test rows have no gold label \(first: line 2 of"),
    ("[" * 100_000, r"line 2 of .*rows\.jsonl is not JSON"),
]


@pytest.mark.parametrize(("line", "expected"), BAD_LINES, ids=[line[:20] for line, _ in BAD_LINES])
def test_a_bad_line_is_named(load: Load, tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(ROWS[0])}\n{line}\n", encoding="utf-8")

    with pytest.raises(InputError, match=expected) as caught:
        load(config(path))

    assert len(str(caught.value)) < 500 + len(str(path))
    assert "\n" not in str(caught.value)


BAD_FILES = [
    ("csv", b"id,txt,label\na,b,dry\n", r"has no column 'text', did you mean 'txt'\?"),
    ("csv", b"text;label\nb;dry\n", r"separated by ';', not ','; set data\.delimiter"),
    ("csv", b"text,label\nb,dry,more\n", r"line 2 of .* is not CSV \(more cells than the header"),
    ("csv", b'text,label\n"b,dry\nc,wet\n', r"is not CSV \(unexpected end of data\)"),
    (
        "csv",
        b"text,label\ncaf\xe9,dry\n",
        r"line 2 holds the byte 0xe9\); .*data\.encoding=latin-1",
    ),
    ("csv", "text,label\nb,dry\n".encode("utf-16"), r"is not utf-8 text; .*encoding=utf-16"),
    ("csv", b"", "holds no rows"),
    ("csv", b"text,label\n", "holds no rows"),
    ("jsonl", b"", "holds no rows"),
    ("jsonl", b"\n \n", "holds no rows"),
    ("jsonl", b"\x80\x81", r"line 1 holds the byte 0x80"),
    ("parquet", b"text,label\nb,dry\n", "is not a Parquet file, or is damaged"),
    ("parquet", b"", "is not a Parquet file, or is damaged"),
]


@pytest.mark.parametrize(("kind", "raw", "expected"), BAD_FILES)
def test_a_bad_file_is_named(
    load: Load, tmp_path: Path, kind: str, raw: bytes, expected: str
) -> None:
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(raw)

    with pytest.raises(InputError, match=expected) as caught:
        load(config(path, kind))

    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_names_its_neighbour(load: Load, jsonl: JsonlFile, tmp_path: Path) -> None:
    jsonl(ROWS, "gold.jsonl")

    with pytest.raises(InputError, match=r"gold\.json does not exist, did you mean 'gold\.jsonl'"):
        load(config(tmp_path / "gold.json"))
    with pytest.raises(InputError, match="is a folder, expected a file"):
        load(config(tmp_path))


def test_asked_columns_that_are_not_there_are_refused_before_any_row(
    load: Load, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)

    for columns, name in [
        (Columns(label="lable"), r"'lable', did you mean 'label'\?.*data\.columns\.label"),
        (Columns(id="key"), r"'key'; it has: id, text, label, level"),
        (Columns(meta=["levle"]), r"'levle', did you mean 'level'\?.*data\.columns\.meta"),
    ]:
        with pytest.raises(InputError, match=name):
            load(config(path, "parquet", columns=columns))
    with pytest.raises(InputError, match=r"no column 'split'.*data\.columns\.split"):
        load(config(path, "parquet", split=ColumnSplit()))


def test_a_split_value_that_never_occurs_is_refused(load: Load, jsonl: JsonlFile) -> None:
    rows = [{**row, "split": word} for row, word in zip(ROWS, ["train", "tests"], strict=True)]

    with pytest.raises(InputError, match=r"says 'test', did you mean 'tests'\?"):
        load(config(jsonl(rows), split=ColumnSplit()))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"encoding": "utf-9"}, "no such encoding"),
        ({"train_limit": 5, "train_fraction": 0.5}, "not both"),
        ({"test_path": "b.csv", "split": {"kind": "column"}}, "leave out `split`"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValidationError, match=expected):
        FileData.model_validate({"kind": "csv", "path": "a.csv", **settings})


def test_a_config_survives_being_stored_and_read_again() -> None:
    adapter: TypeAdapter[DataConfig] = TypeAdapter(DataConfig)
    data = FileData(kind="csv", path=Path("a.csv"), test_path=Path("b.csv"), label_map={"0": "dry"})

    assert adapter.validate_json(adapter.dump_json(data)) == data


def test_a_source_that_grows_or_shrinks_between_the_two_passes_is_refused(
    weather: TaskDefinition, jsonl: JsonlFile
) -> None:
    path = jsonl(ROWS)
    rows = scan(config(path), weather)

    for changed in (ROWS[:1], [*ROWS, {"text": "late row", "label": "dry"}]):
        jsonl(changed)
        with pytest.raises(InputError, match="changed while it was read: 2 rows at first"):
            list(labelled_examples(config(path), weather, rows))


def test_leaked_names_test_examples_whose_text_was_trained_on_however_it_was_written() -> None:
    test = [(str(i), text) for i, text in enumerate(["Sales rose 5 %.", "New", "+ 1"])]

    assert leaked(test, iter(["SALES ROSE 5%", "something else"])) == ["0"]
    assert leaked(test, []) == []
    assert leaked([], ["New"]) == []
    assert leaked([*test, *test[1:]], ["NEW!"]) == ["1", "1"]
