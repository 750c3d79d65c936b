"""The cache as a whole: counted, checked, thinned out, and carried to and from Parquet."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from common.data.atomic import atomic_file
from common.errors import InputError
from common.fingerprint import canonical_json
from common.records import Record, Usage
from teacher.base import Reply
from teacher.cache import AnswerCache
from teacher.entries import Entry, decode, encode

T = TypeVar("T")
_BLOCK = 4096
_TEXTS = ("body", "model", "teacher", "provider", "terms")
_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
_FLOATS = ("usd", "received_at", "seconds")


class Share(Record):
    """The answers of one teacher and model: how many, what they cost in US dollars, how old."""

    provider: str
    teacher: str
    model: str
    terms: str
    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    oldest: float = 0.0
    newest: float = 0.0


class CacheStats(Record):
    """What lies in a cache. `bytes` are those of the values, without what Redis adds."""

    answers: int
    bytes: int
    damaged: int
    shares: list[Share]


class Verified(Record):
    """How many entries were read, and the keys of those that could not be."""

    checked: int
    damaged: list[str]


@dataclass(slots=True)
class _Sum:
    count: int = 0
    usage: Usage = field(default_factory=Usage)
    oldest: float = float("inf")
    newest: float = 0.0


def cache_stats(cache: AnswerCache) -> CacheStats:
    """Read every entry once and count; memory does not grow with the cache."""
    sums: dict[tuple[str, str, str, str], _Sum] = {}
    answers = size = damaged = 0
    for _, packed in cache.packed():
        answers, size = answers + 1, size + len(packed)
        entry = _readable(packed)
        if entry is None:
            damaged += 1
            continue
        reply = entry.reply
        found = sums.setdefault((entry.provider, entry.teacher, reply.model, entry.terms), _Sum())
        found.count += 1
        found.usage += reply.usage
        found.oldest = min(found.oldest, reply.received_at)
        found.newest = max(found.newest, reply.received_at)
    shares = [_share(key, found) for key, found in sorted(sums.items())]
    return CacheStats(answers=answers, bytes=size, damaged=damaged, shares=shares)


def _share(key: tuple[str, str, str, str], found: _Sum) -> Share:
    return Share(
        provider=key[0],
        teacher=key[1],
        model=key[2],
        terms=key[3],
        answers=found.count,
        input_tokens=found.usage.input_tokens,
        output_tokens=found.usage.output_tokens,
        usd=found.usage.usd,
        oldest=found.oldest,
        newest=found.newest,
    )


def verify_cache(cache: AnswerCache) -> Verified:
    """Read every entry: checksum, format version, JSON."""
    checked, damaged = 0, []
    for key, packed in cache.packed():
        checked += 1
        if _readable(packed) is None:
            damaged.append(key)
    return Verified(checked=checked, damaged=damaged)


def drop_answers(
    cache: AnswerCache,
    teacher: str | None = None,
    model: str | None = None,
    before: float | None = None,
    damaged: bool = False,
) -> int:
    """
    Forget the answers that meet every condition given (`before`: seconds since the epoch), or
    the damaged entries. Returns how many. Raises InputError when no condition is given.
    """
    if not damaged and teacher is None and model is None and before is None:
        raise InputError(
            "cache drop: say which answers, by teacher, model or age; paid answers are never "
            "dropped all at once by accident."
        )

    def goes(entry: Entry | None) -> bool:
        if entry is None:
            return damaged
        return not damaged and (
            teacher in (None, entry.teacher)
            and model in (None, entry.reply.model)
            and (before is None or entry.reply.received_at < before)
        )

    return _drop_where(cache, goes)


def _drop_where(cache: AnswerCache, goes: Callable[[Entry | None], bool]) -> int:
    found = (key for key, packed in cache.packed() if goes(_readable(packed)))
    return sum(cache.drop(block) for block in _blocks(found))


def export_cache(cache: AnswerCache, path: Path) -> int:
    """
    Write every readable entry with its provenance to a Parquet file; returns how many.

    A key may be written twice where Redis is busy meanwhile; importing does not mind. The file
    appears whole or not at all. Memory: one row group. Raises DiskFull.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [("key", pa.binary(32))]
        + [(name, pa.string()) for name in _TEXTS]
        + [(name, pa.int64()) for name in _COUNTS]
        + [(name, pa.float64()) for name in _FLOATS],
        metadata={"finstill": canonical_json({"kind": "answer-cache", "version": 1})},
    )
    written = 0
    with atomic_file(path) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as table:
        for block in _blocks(cache.packed()):
            rows = [row for key, packed in block if (row := _row(key, packed))]
            table.write_table(pa.Table.from_pylist(rows, schema=schema))
            written += len(rows)
    return written


def _row(key: str, packed: bytes) -> dict[str, Any] | None:
    entry = _readable(packed)
    if entry is None:
        return None
    reply = entry.reply
    return {
        "key": bytes.fromhex(key),
        "body": canonical_json(reply.body),
        "model": reply.model,
        "teacher": entry.teacher,
        "provider": entry.provider,
        "terms": entry.terms,
        "received_at": reply.received_at,
        "seconds": reply.seconds,
        **reply.usage.model_dump(),
    }


def import_cache(cache: AnswerCache, path: Path) -> tuple[int, int]:
    """
    Put a file of `export_cache` into a cache; returns (rows in the file, rows that were new).

    What is there already stays as it is, so that importing twice changes nothing.
    Raises InputError for a file that is missing or none of ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = new = 0
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_BLOCK):
                entries = dict(map(_entry, batch.to_pylist()))
                rows += len(entries)
                new += cache.put_packed(entries)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as an exported answer cache: {error}; make one with "
            "'finstill cache export'."
        ) from error
    return rows, new


def _check_columns(path: Path, names: Iterable[str]) -> None:
    missing = {"key", *_TEXTS, *_COUNTS, *_FLOATS} - set(names)
    if missing:
        raise InputError(
            f"{path} is no exported answer cache: it has no column {', '.join(sorted(missing))}; "
            "make one with 'finstill cache export'."
        )


def _entry(row: dict[str, Any]) -> tuple[str, bytes]:
    usage = Usage(usd=row["usd"], **{name: row[name] for name in _COUNTS})
    reply = Reply(json.loads(row["body"]), usage, row["model"], row["received_at"], row["seconds"])
    entry = Entry(reply, row["teacher"], row["provider"], row["terms"])
    return row["key"].hex(), encode(entry)


def _readable(packed: bytes) -> Entry | None:
    try:
        return decode(packed)
    except (InputError, ValueError, KeyError):
        return None


def _blocks(items: Iterator[T]) -> Iterator[list[T]]:
    while block := list(islice(items, _BLOCK)):
        yield block
