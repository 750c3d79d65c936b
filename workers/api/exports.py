"""What leaves as a file: predictions as tables, a model folder as an archive."""

import csv
import io
import json
import queue
import tarfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.records import Prediction
from student.export.public import CARD, public_files

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")
_BLOCK = 1 << 18

Members = dict[Path, bytes | None]  # the files of an archive; bytes: in place of their content


def csv_rows(predictions: Iterable[Prediction], labels: list[str]) -> Iterator[str]:
    """A header and a line per prediction; no cell can be taken for a formula by a spreadsheet."""
    columns = ["example_id", "label", *(f"p_{label}" for label in labels), "rationale"]
    yield _line(columns)
    for row in predictions:
        chances = row.probabilities or {}
        yield _line(
            [row.example_id, row.label, *(chances.get(label) for label in labels), row.rationale]
        )


def json_rows(predictions: Iterable[Prediction]) -> Iterator[str]:
    """A JSON object a line."""
    for row in predictions:
        yield json.dumps(row.model_dump(mode="json"), ensure_ascii=False) + "\n"


def _line(cells: list[Any]) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerow([_harmless(cell) for cell in cells])
    return stream.getvalue()


def _harmless(cell: Any) -> Any:
    """Text that would start a formula starts with an apostrophe instead; numbers stay numbers."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def model_members(folder: Path) -> Members:
    """
    What others get of a model folder: its regular files, those that name places of this machine
    with other content. Raises StudentError.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    told = public_files(folder)
    return {file: told.get(file) for file in files if file.name != CARD}


def archive(folder: Path, name: str, members: Members) -> Iterator[bytes]:
    """Files of a folder as a tar stream, with their own content or another; memory: few blocks."""
    blocks: queue.Queue[bytes | None] = queue.Queue(maxsize=8)
    gone = threading.Event()
    writer = threading.Thread(target=_pack, args=(folder, name, members, blocks, gone), daemon=True)
    writer.start()
    try:
        while (block := blocks.get()) is not None:
            yield block
    finally:
        gone.set()


def _pack(
    folder: Path,
    name: str,
    members: Members,
    blocks: "queue.Queue[bytes | None]",
    gone: threading.Event,
) -> None:
    class Sink(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, block: Any) -> int:
            while not gone.is_set():
                try:
                    blocks.put(bytes(block), timeout=1)
                    return len(block)
                except queue.Full:
                    continue
            raise BrokenPipeError

    try:
        with tarfile.open(fileobj=Sink(), mode="w|", bufsize=_BLOCK) as tar:
            for file, content in members.items():
                _add(tar, file, f"{name}/{file.relative_to(folder).as_posix()}", content)
    except BrokenPipeError:
        return
    finally:
        if not gone.is_set():
            blocks.put(None)


def _add(tar: tarfile.TarFile, file: Path, name: str, content: bytes | None) -> None:
    if content is None:
        tar.add(file, arcname=name)
        return
    info = tar.gettarinfo(file, arcname=name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
