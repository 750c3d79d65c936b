"""Why rows have no answer: counted by reason, with a few examples, while a job is at work."""

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.config import RunConfig
from common.data.store import read_records
from common.errors import FinstillError
from common.records import Example
from workers.graph import fingerprint
from workers.run_directory import RunDirectory

MOST_EXAMPLES = 3
MOST_FILES = 200
MOST_TEXT_ROWS = 50_000
_COLUMNS = ["outcome", "example_id", "reason", "detail"]

Row = tuple[str, str, str]


@dataclass
class Unmet:
    """Rows without an answer for one reason: how many, and `examples` as (text or id, detail)."""

    reason: str
    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


def unmet_by_reason(run: RunDirectory, config: RunConfig) -> list[Unmet]:
    """Most frequent first; of the chunks finished so far (of very many, the first MOST_FILES)."""
    folder = run.labels / "chunks" / fingerprint(config, "label")[:16]
    files = sorted(folder.glob("*.parquet"))[:MOST_FILES] if config.all_teachers else []
    rows = [row for file in files for row in _rows(file, file.stat().st_mtime_ns)]
    counts = Counter(reason for _, reason, _ in rows)
    found = {reason: Unmet(reason, count) for reason, count in counts.most_common()}
    shown = [row for row in rows if _still_wanted(found[row[1]], row)]
    texts = _texts(run, {example_id for example_id, _, _ in shown}) if shown else {}
    for unmet in found.values():
        unmet.examples = [(texts.get(name, name), detail) for name, detail in unmet.examples]
    return list(found.values())


def _still_wanted(unmet: Unmet, row: Row) -> bool:
    if len(unmet.examples) >= MOST_EXAMPLES:
        return False
    unmet.examples.append((row[0], row[2]))
    return True


@lru_cache(maxsize=4 * MOST_FILES)
def _rows(file: Path, stamp: int) -> tuple[Row, ...]:
    """Id, reason and detail of the unanswered rows of one chunk, whose file never changes."""
    try:
        table = pq.read_table(file, columns=_COLUMNS, use_threads=False)
    except OSError:
        return ()
    table = table.filter(pc.equal(table["outcome"], "unanswered"))
    return tuple((r["example_id"], r["reason"], r["detail"] or "") for r in table.to_pylist())


def _texts(run: RunDirectory, ids: set[str]) -> dict[str, str]:
    """The texts of a few rows, as far as they stand among the first MOST_TEXT_ROWS."""
    found: dict[str, str] = {}
    try:
        for number, example in enumerate(read_records(run.part("to_label"), Example)):
            if example.id in ids:
                found[example.id] = example.text
            if len(found) == len(ids) or number >= MOST_TEXT_ROWS:
                break
    except FinstillError:
        pass
    return found
