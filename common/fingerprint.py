"""Canonical JSON and its digest: the one key function for caches, run ids, stages and data."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel


def canonical_json(value: Any) -> str:
    """
    JSON with sorted keys and no spaces, so that equal values give equal text.

    Raises ValueError for NaN and infinities: a key that is not equal to itself finds nothing.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_lines(lines: Iterable[str]) -> str:
    """SHA-256 over length-prefixed strings in order: the fingerprint of a list of texts."""
    state = hashlib.sha256()
    for line in lines:
        raw = line.encode()
        state.update(len(raw).to_bytes(8, "big"))
        state.update(raw)
    return state.hexdigest()


def digest_path(path: Path) -> str:
    """
    SHA-256 of a file's bytes; of a folder, over its files' names and bytes in sorted order.

    Files above 64 MB (weights) enter by name, size and their first and last megabyte: reading
    16 GB to name a run would cost more than the run's evaluation.
    """
    state = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        state.update(f"{name}\0{file.stat().st_size}\0".encode())
        state.update(_content(file))
    return state.hexdigest()


def _content(file: Path, whole_below: int = 64 << 20, edge: int = 1 << 20) -> bytes:
    with file.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size <= whole_below:
            return hashlib.file_digest(stream, "sha256").digest()
        head = stream.read(edge)
        stream.seek(-edge, os.SEEK_END)
        return hashlib.sha256(head + stream.read(edge)).digest()
