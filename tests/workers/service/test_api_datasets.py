"""Uploads: streamed, read through, limited, named by their bytes; and runs made from them."""

import gzip
import io
import json
import os
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from workers.api.datasets import DatasetStore
from workers.services import Settings

Headers = dict[str, str]
ROW = b'{"id": "a", "text": "Net sales rose.", "label": "positive"}\n'


def upload(web: TestClient, headers: Headers, body: Any, query: str = "format=jsonl") -> Any:
    typed = {**headers, "Content-Type": "application/octet-stream"}
    return web.post(f"/v1/datasets?{query}", content=body, headers=typed)


def test_an_upload_is_named_by_its_bytes_and_taken_once(
    web: TestClient, submitter: Headers
) -> None:
    first, second = upload(web, submitter, ROW), upload(web, submitter, ROW)

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == sha256(ROW).hexdigest()
    assert first.json()["labels"] == {"positive": 1}
    assert len(web.get("/v1/datasets", headers=submitter).json()["items"]) == 1


def test_parquet_and_csv_are_read_as_well(web: TestClient, submitter: Headers) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"], "label": ["x", "y"]}), table)

    parquet = upload(web, submitter, table.getvalue(), "format=parquet")
    csv = upload(web, submitter, b"text,label\nSales rose.,positive\n", "format=csv")

    assert parquet.json()["rows"] == 2
    assert csv.json()["columns"] == ["text", "label"]


@pytest.mark.parametrize(
    ("body", "query", "status", "word"),
    [
        (b"", "format=jsonl", 400, "empty"),
        (b"not json\n", "format=jsonl", 422, "not JSON"),
        (b'{"label": "positive"}\n', "format=jsonl", 422, "no 'text'"),
        (b'{"text": "  "}\n', "format=jsonl", 422, "no 'text'"),
        (b'{"text": "a\\u0000b"}\n', "format=jsonl", 422, "NUL"),
        (b"[" * 100_000 + b"\n", "format=jsonl", 422, "not JSON"),
        (b'{"text": "' + b"x" * 200_000 + b'"}\n', "format=jsonl", 422, "signs"),
        (b'{"text": "\xff"}\n', "format=jsonl", 422, "utf-8"),
        (b"text\na,b\n", "format=csv", 422, "more cells"),
        (b'text\n"open', "format=csv", 422, "not CSV"),
        (b"PAR1 but not really", "format=parquet", 422, "not Parquet"),
        (gzip.compress(ROW, mtime=0), "format=jsonl", 415, "gzip"),
        (ROW, "format=exe", 422, "expected form"),
        (ROW, "format=jsonl&needs=label%00", 422, "expected form"),
    ],
)
def test_a_body_that_is_not_fit_leaves_nothing(
    web: TestClient,
    submitter: Headers,
    settings: Settings,
    body: bytes,
    query: str,
    status: int,
    word: str,
) -> None:
    answer = upload(web, submitter, body, query)

    assert (answer.status_code, word in answer.json()["detail"]) == (status, True), answer.text
    assert str(settings.runs) not in answer.text
    assert list((settings.runs / ".datasets").glob("*")) == []


def test_a_zip_bomb_is_refused_by_its_first_bytes(web: TestClient, submitter: Headers) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", b"0" * 10_000_000)

    assert upload(web, submitter, packed.getvalue()).status_code == 415


def test_a_parquet_bomb_dies_in_a_process_of_its_own(web: TestClient, submitter: Headers) -> None:
    """A 400-kilobyte file that unfolds to 10 gigabytes of text."""
    word = pa.array(["x" * 50_000_000])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), word)
    packed = io.BytesIO()
    pq.write_table(pa.table({"text": column}), packed, compression="zstd")
    assert len(packed.getvalue()) < 1_000_000

    answer = upload(web, submitter, packed.getvalue(), "format=parquet")

    assert answer.status_code == 422
    assert "memory" in answer.json()["detail"] or "signs" in answer.json()["detail"]


def test_a_gigabyte_is_refused_before_it_is_read(
    web: TestClient, submitter: Headers, settings: Settings
) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            sent += 1 << 20
            yield b"x" * (1 << 20)

    declared = web.post(
        "/v1/datasets?format=jsonl",
        content=b"x",
        headers={**submitter, "Content-Type": "application/octet-stream",
                 "Content-Length": str(1 << 30)},
    )  # fmt: skip
    streamed = upload(web, submitter, endless())

    assert (declared.status_code, streamed.status_code) == (413, 413)
    assert list((settings.runs / ".datasets").glob("*")) == []


def test_a_run_is_made_from_uploads(
    web: TestClient,
    submitter: Headers,
    finished: Path,
    inline: Callable[..., dict[str, Any]],
    settings: Settings,
) -> None:
    source = finished.parent
    rows = upload(web, submitter, (source / "rows.jsonl").read_bytes()).json()["id"]
    answers = upload(
        web, submitter, (source / "answers.jsonl").read_bytes(), "format=jsonl&needs=label"
    ).json()["id"]
    config = inline(f"upload:{rows}", f"upload:{answers}")

    answer = web.post("/v1/jobs", json={"inline": config}, headers=submitter)

    assert answer.status_code == 202, answer.text
    told = web.get(f"/v1/runs/{answer.json()['id']}", headers=submitter)
    assert told.json()["config"]["data"]["path"].startswith("upload:")
    assert str(settings.runs) not in told.text
    stored = json.loads((settings.runs / answer.json()["id"] / "config.json").read_text())
    assert Path(stored["data"]["path"]).read_bytes() == (source / "rows.jsonl").read_bytes()


def test_only_an_admin_deletes(web: TestClient, submitter: Headers, admin: Headers) -> None:
    name = upload(web, submitter, ROW).json()["id"]

    assert web.delete(f"/v1/datasets/{name}", headers=submitter).status_code == 403
    assert web.delete(f"/v1/datasets/{name}", headers=admin).status_code == 204
    assert web.get(f"/v1/datasets/{name}", headers=admin).status_code == 404


def test_what_a_killed_server_had_received_is_removed_at_the_next_start(tmp_path: Path) -> None:
    host, old = socket.gethostname(), time.time() - 3600
    for name in (
        f"{host}-999999999-a",
        f"{host}-{os.getppid()}-b",
        "elsewhere-7-c",
        "elsewhere-8-d",
    ):
        (tmp_path / f".incoming-{name}").write_text("half a f")
    os.utime(tmp_path / ".incoming-elsewhere-8-d", (old, old))

    DatasetStore(tmp_path, 1, 1).sweep()

    left = {path.name.rpartition("-")[2] for path in tmp_path.iterdir()}
    assert left == {"b", "c"}  # of a living server, and of another host not long ago
