"""Uploaded data sets: streamed to disk, read through, and named by the digest of their bytes."""

import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import anyio
from anyio import to_thread

from common.errors import DiskFull, InputError
from common.records import Record
from workers.api.inspection import inspect
from workers.api.problems import Problem, not_found
from workers.run_directory import read_json, write_json

Format = Literal["jsonl", "csv", "parquet"]
ID = re.compile(r"[0-9a-f]{64}")
IDLE_SECONDS = 30.0
WHOLE_SECONDS = 900.0
_SPARE_BYTES = 512 << 20
_MAGIC = {b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip file", b"BZh": "a bzip2 file",
          b"\x28\xb5\x2f\xfd": "a zstd file", b"\xfd7zXZ": "an xz file"}  # fmt: skip


class Dataset(Record):
    """An upload. `id` is the SHA-256 of its bytes; `labels` counts the values of that column."""

    id: str
    format: Format
    bytes: int
    rows: int
    columns: list[str]
    labels: dict[str, int]
    created_at: float
    uploaded_by: str


@dataclass(frozen=True)
class Received:
    """A body on disk, not yet looked into."""

    file: Path
    digest: str
    size: int


class DatasetStore:
    """The uploads of one installation, in a folder that API and workers share."""

    def __init__(self, folder: Path, most_bytes: int, most_rows: int):
        self.folder, self._most_bytes, self._most_rows = folder, most_bytes, most_rows

    def sweep(self) -> None:
        """At the start: remove what a server that was killed had received of uploads."""
        for path in self.folder.glob(".incoming-*"):
            pid = path.name.removeprefix(_incoming()).partition("-")[0]
            gone = pid.isdigit() and (int(pid) == os.getpid() or not Path("/proc", pid).exists())
            try:
                if gone or time.time() - path.stat().st_mtime > WHOLE_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # another server was quicker
                continue

    async def receive(self, chunks: AsyncIterator[bytes]) -> Received:
        """Stream a body to disk. Raises Problem 413 or 400, and DiskFull."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.folder).free < self._most_bytes + _SPARE_BYTES:
            raise DiskFull("the disk has no room for an upload; free some and try again.")
        target = self.folder / f"{_incoming()}{os.getpid()}-{secrets.token_hex(8)}"
        try:
            return await self._write(chunks, target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    async def _write(self, chunks: AsyncIterator[bytes], target: Path) -> Received:
        state, size, opening = sha256(), 0, b""
        deadline = time.monotonic() + WHOLE_SECONDS
        async with await anyio.open_file(target, "wb") as stream:
            while (chunk := await _next(chunks, deadline)) is not None:
                size += len(chunk)
                if size > self._most_bytes:
                    raise Problem(413, f"an upload may have {self._most_bytes} bytes.")
                opening = (opening + chunk)[:8] if len(opening) < 8 else opening
                _refuse_archives(opening)
                state.update(chunk)
                await stream.write(chunk)
        if size == 0:
            raise Problem(400, "the body is empty; send the file itself as the body.")
        return Received(target, state.hexdigest(), size)

    async def keep(
        self, received: Received, form: Format, needed: str, uploaded_by: str
    ) -> tuple[Dataset, bool]:
        """The data set and whether it is new. Raises InputError unless each row has `needed`."""
        try:
            known = self._find(received.digest)
            if known and known.format == form and needed in known.columns:
                return known, False
            found = await to_thread.run_sync(inspect, received.file, form, needed, self._most_rows)
            dataset = Dataset(
                id=received.digest,
                format=form,
                bytes=received.size,
                created_at=time.time(),
                uploaded_by=uploaded_by,
                **found,
            )
            received.file.replace(self._content(dataset))
            write_json(self.folder / f"{dataset.id}.json", dataset.model_dump(mode="json"))
            return dataset, True
        finally:
            received.file.unlink(missing_ok=True)

    def get(self, dataset_id: str) -> Dataset:
        """One data set. Raises Problem 404."""
        found = self._find(dataset_id) if ID.fullmatch(dataset_id) else None
        if found is None:
            raise not_found("data set", dataset_id)
        return found

    def all(self) -> list[Dataset]:
        """Newest first."""
        trees = [read_json(path) for path in self.folder.glob("*.json")]
        found = [Dataset.model_validate(tree) for tree in trees if tree]
        return sorted(found, key=lambda dataset: (-dataset.created_at, dataset.id))

    def path(self, dataset_id: str) -> Path:
        """Where the bytes lie. Raises InputError for an id of nothing."""
        found = self._find(dataset_id) if ID.fullmatch(dataset_id) else None
        if found is None:
            raise InputError(f"'upload:{dataset_id[:80]}' is no data set here; upload it first.")
        return self._content(found)

    def delete(self, dataset_id: str) -> None:
        """Forget a data set; runs made from it keep their own copy. Raises Problem 404."""
        dataset = self.get(dataset_id)
        (self.folder / f"{dataset.id}.json").unlink(missing_ok=True)
        self._content(dataset).unlink(missing_ok=True)

    def _find(self, digest: str) -> Dataset | None:
        tree = read_json(self.folder / f"{digest}.json")
        return Dataset.model_validate(tree) if tree else None

    def _content(self, dataset: Dataset) -> Path:
        return self.folder / f"{dataset.id}.{dataset.format}"


def _incoming() -> str:
    """How the unfinished files of this host's servers begin."""
    return f".incoming-{socket.gethostname()}-"


async def _next(chunks: AsyncIterator[bytes], deadline: float) -> bytes | None:
    seconds = min(IDLE_SECONDS, deadline - time.monotonic())
    with anyio.move_on_after(max(0.0, seconds)):
        return await anext(chunks, None)
    raise Problem(400, "the upload came too slowly.", slug="slow-body")


def _refuse_archives(opening: bytes) -> None:
    for magic, name in _MAGIC.items():
        if opening.startswith(magic):
            raise Problem(415, f"the body is {name}; send the plain file.")
