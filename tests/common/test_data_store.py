"""Records survive the disk as they were, or the file is not there."""

import errno
import os
import random
import string
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from common.data.atomic import disk_faults
from common.data.store import (
    ROWS_PER_GROUP,
    count_records,
    read_answers,
    read_records,
    read_slice,
    write_records,
)
from common.errors import DiskFull, InputError
from common.records import (
    Answer,
    Example,
    Prediction,
    Reason,
    Record,
    TeacherAnswer,
    TrainingPair,
    Unanswered,
    Usage,
)

EXAMPLES = [
    Example(
        id="a", text="Zürich's „Bank\u201c rose 5\u00a0%\nagain", label="dry", meta={"level": 75}
    ),
    Example(id="b", text="", label=None, meta={"hard": True, "share": 0.1, "none": None}),
]
PAIRS = [
    TrainingPair(example_id="a", text="t", label="dry", rationale="r", probabilities={"dry": 0.1}),
    TrainingPair(example_id="b", text="t", label="wet", weight=0.25),
]
PREDICTIONS = [
    Prediction(example_id="a", label=None, raw="dry or wet"),
    Prediction(example_id="b", label="wet", probabilities={"dry": 1 / 3, "wet": 2 / 3}),
]
ANSWERS = [
    TeacherAnswer(
        example_id="a",
        teacher="t",
        label="dry",
        confidence=0.9,
        probabilities={"dry": 0.7, "wet": 0.3},
        usage=Usage(input_tokens=12, usd=0.001),
        cached=True,
    ),
    Unanswered(example_id="b", teacher="t", reason=Reason.ECHO, detail="the prompt came back"),
    TeacherAnswer(example_id="c", teacher="t", sample=2, label="wet"),
]


def many(count: int) -> list[Example]:
    return [Example(id=str(i), text=f"text {i}") for i in range(count)]


def explode_after(records: list[Record]) -> object:
    yield from records
    raise RuntimeError("the worker died")


@pytest.mark.parametrize(
    ("records", "model"),
    [
        (EXAMPLES, Example),
        (PAIRS, TrainingPair),
        (PREDICTIONS, Prediction),
        (ANSWERS, Answer),
        ([], Example),
    ],
    ids=["examples", "pairs", "predictions", "answers", "nothing"],
)
def test_records_come_back_as_they_went(
    tmp_path: Path, records: list[Record], model: object
) -> None:
    path = tmp_path / "new" / "folder" / "records.parquet"

    written = write_records(path, records, model)

    assert written == count_records(path) == len(records)
    assert list(read_records(path, model)) == records


def test_answers_of_both_kinds_share_a_table(tmp_path: Path) -> None:
    path = tmp_path / "answers.parquet"
    write_records(path, ANSWERS, Answer)

    assert [type(answer) for answer in read_answers(path)] == [
        TeacherAnswer,
        Unanswered,
        TeacherAnswer,
    ]


def test_a_slice_reads_the_rows_of_its_numbers_across_row_groups(tmp_path: Path) -> None:
    examples = many(2 * ROWS_PER_GROUP + 10)
    path = tmp_path / "examples.parquet"
    write_records(path, examples, Example)
    edge = ROWS_PER_GROUP

    assert pq.read_metadata(path).num_row_groups == 3
    assert read_slice(path, edge - 2, edge + 2, Example) == examples[edge - 2 : edge + 2]
    assert read_slice(path, 0, 1, Example) == examples[:1]
    assert read_slice(path, 2 * edge + 5, 9 * edge, Example) == examples[2 * edge + 5 :]
    assert read_slice(path, 9 * edge, 9 * edge + 1, Example) == []


def test_a_slice_touches_no_other_row_group(tmp_path: Path) -> None:
    path = tmp_path / "examples.parquet"
    examples = many(2 * ROWS_PER_GROUP)
    write_records(path, examples, Example)
    second = pq.read_metadata(path).row_group(1).column(0)
    damage(path, second.dictionary_page_offset or second.data_page_offset, 400)

    assert read_slice(path, 0, 5, Example) == examples[:5]
    with pytest.raises(InputError, match=r"examples\.parquet is damaged"):
        read_slice(path, ROWS_PER_GROUP, ROWS_PER_GROUP + 5, Example)


def damage(path: Path, offset: int, length: int) -> None:
    raw = bytearray(path.read_bytes())
    for position in range(offset + 40, offset + length):
        raw[position] ^= 0xFF
    path.write_bytes(raw)


def test_a_single_wrong_byte_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    draw = random.Random(4)
    texts = ["".join(draw.choices(string.ascii_letters, k=200)) for _ in range(50)]
    path = tmp_path / "examples.parquet"
    write_records(path, [Example(id=t[:9], text=t) for t in texts], Example)
    sound = path.read_bytes()
    column = pq.read_metadata(path).row_group(0).column(1)
    start = column.dictionary_page_offset or column.data_page_offset

    for position in range(start + 500, start + column.total_compressed_size - 500, 400):
        path.write_bytes(sound[:position] + bytes([sound[position] ^ 1]) + sound[position + 1 :])
        with pytest.raises(InputError, match="is damaged"):
            list(read_records(path, Example))


def test_a_writer_that_dies_leaves_the_earlier_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "examples.parquet"
    write_records(path, EXAMPLES, Example)

    with pytest.raises(RuntimeError, match="the worker died"):
        write_records(path, explode_after(many(5000)), Example)  # type: ignore[arg-type]

    assert list(read_records(path, Example)) == EXAMPLES
    assert [p.name for p in tmp_path.iterdir()] == ["examples.parquet"]


def test_a_full_disk_is_one_sentence_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)

    with pytest.raises(DiskFull, match=r"x\.parquet could not be written, the disk is full"):
        write_records(tmp_path / "x.parquet", EXAMPLES, Example)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_real_write_error_of_a_full_device_is_recognised() -> None:
    with (
        pytest.raises(DiskFull, match="free some space"),
        disk_faults(Path("run/answers.parquet")),
        Path("/dev/full").open("wb", buffering=0) as stream,
    ):
        stream.write(b"x")


def test_files_that_are_no_finished_table_are_refused_by_name(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    write_records(whole, many(300), Example)
    half = tmp_path / "half.parquet"
    half.write_bytes(whole.read_bytes()[:-50])
    empty = tmp_path / "empty.parquet"
    empty.write_bytes(b"")

    for path, expected in [(half, "damaged"), (empty, "damaged"), (tmp_path, "damaged")]:
        with pytest.raises(InputError, match=f"{path.name} is {expected}"):
            list(read_records(path, Example))
    with pytest.raises(InputError, match="does not exist"):
        count_records(tmp_path / "none.parquet")


def test_a_table_of_other_records_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "examples.parquet"
    write_records(path, EXAMPLES, Example)

    with pytest.raises(InputError, match="no table of Prediction records: it lacks the columns"):
        list(read_records(path, Prediction))
    with pytest.raises(InputError, match=r"no table of TeacherAnswer\|Unanswered records"):
        read_slice(path, 0, 1, Answer)


def test_a_table_written_before_a_field_existed_reads_with_its_default(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    write_records(path, PAIRS, TrainingPair)
    pq.write_table(pq.read_table(path).drop_columns(["weight"]), path)

    assert [pair.weight for pair in read_records(path, TrainingPair)] == [1.0, 1.0]
