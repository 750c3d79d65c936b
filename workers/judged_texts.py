"""The texts that systems are compared on: a test part, what several have in common, or others."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from common.config.data import DataConfig
from common.data.fold import fold_key
from common.data.near_duplicates import MAX_ROWS, nearest_cosine
from common.data.prepare import prepare
from common.data.store import read_columns, read_records
from common.errors import InputError
from common.fingerprint import digest, digest_lines
from common.records import Example
from common.task import load_task
from workers.leak_guard import SEEN_PARTS
from workers.run_directory import Run, RunDirectory, read_json


@dataclass(frozen=True)
class JudgedTexts:
    """
    What is judged, and where it comes from.

    `origin`: "own" is the test part of every run, "common" what their test parts share (ids are
    those of the first run), "other" another data set. `whole`: nothing was taken out of it.
    """

    gold: list[Example]
    dataset: str
    fingerprint: str
    origin: Literal["own", "common", "other"]
    near_duplicates: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    whole: bool = True

    @property
    def rows(self) -> list[tuple[str, str]]:
        """(id, text) of each."""
        return [(example.id, example.text) for example in self.gold]

    def without(self, ids: frozenset[str], why: str) -> "JudgedTexts":
        """The same without some texts; `why` is noted. Raises InputError where none is left."""
        gold = [example for example in self.gold if example.id not in ids]
        if not gold:
            raise InputError(f"no text is left to judge: {why}")
        fingerprint = digest([self.fingerprint, sorted(ids)])
        return replace(
            self, gold=gold, fingerprint=fingerprint, notes=(*self.notes, why), whole=False
        )

    def noting(self, notes: Sequence[str]) -> "JudgedTexts":
        """The same with something to be read beside the figures."""
        return replace(self, notes=(*self.notes, *notes))


def own_texts(runs: Sequence[Run]) -> JudgedTexts:
    """The test part that all runs have. Raises InputError where they have different ones."""
    refuse_other_texts(runs)
    directory, config = runs[0]
    splits = [read_json(run.split_file) for run, _ in runs]
    near = (i for split in splits for i in split["near_duplicates"]["ids"])
    return JudgedTexts(
        gold=list(read_records(directory.part("test"), Example)),
        dataset=config.data.name or config.data.kind,
        fingerprint=splits[0]["fingerprint"],
        origin="own",
        near_duplicates=frozenset(near),
    )


def common_texts(runs: Sequence[Run]) -> JudgedTexts:
    """
    The texts that stand, folded equal and with the same gold label, in every run's test part.

    Raises InputError where there is none.
    """
    shared = set.intersection(*({*keyed(directory)} for directory, _ in runs))
    first = keyed(runs[0][0])
    gold = [example for key, example in first.items() if key in shared]
    names = list(dict.fromkeys(config.data.name or config.data.kind for _, config in runs))
    if not gold:
        raise InputError(f"the test parts of {', '.join(names)} have no text in common.")
    sizes = ", ".join(f"{len(keyed(run)):,} of {run.run_id}" for run, _ in runs)
    return JudgedTexts(
        gold=gold,
        dataset=f"the common test texts of {' and '.join(names)}",
        fingerprint=digest_lines(f"{e.label}\0{e.text}" for e in gold),
        origin="common",
        near_duplicates=_near(gold, runs),
        notes=(f"Judged on the {len(gold):,} texts that all test parts share ({sizes}).",),
    )


def keyed(run: RunDirectory) -> dict[tuple[int, str | None], Example]:
    """The test part by folded text and label; of several equal ones the first."""
    found: dict[tuple[int, str | None], Example] = {}
    for example in read_records(run.part("test"), Example):
        found.setdefault((fold_key(example.text), example.label), example)
    return found


def other_texts(data: DataConfig, runs: Sequence[Run], name: str) -> JudgedTexts:
    """
    The test part of another labelled data set, for the runs' task.

    Raises InputError and ConfigError as `prepare` does, and InputError for texts without label.
    """
    _, config = runs[0]
    with tempfile.TemporaryDirectory() as folder:
        split = prepare(data, load_task(config.task), config.seed, Path(folder))
        gold = list(read_records(Path(folder) / "test.parquet", Example))
    bare = sum(example.label is None for example in gold)
    if bare:
        raise InputError(
            f"{bare} of the {len(gold)} test texts of {split.source} have no gold label: nothing "
            f"can be judged on them; see data.columns.label in {name}."
        )
    note = f"Transfer: the systems were trained on other data and judged on {split.source}."
    return JudgedTexts(
        gold=gold,
        dataset=split.source,
        fingerprint=split.fingerprint,
        origin="other",
        near_duplicates=_near(gold, runs),
        notes=(note,),
    )


def _near(gold: Sequence[Example], runs: Sequence[Run]) -> frozenset[str]:
    seen = {
        text
        for run, _ in runs
        for part in SEEN_PARTS
        for (text,) in read_columns(run.part(part), "text")
    }
    if len(seen) + len(gold) > MAX_ROWS:
        return frozenset()
    least = runs[0][1].data.near_duplicate_cosine
    cosines = nearest_cosine([example.text for example in gold], sorted(seen))
    near = zip(gold, cosines, strict=True)
    return frozenset(example.id for example, cosine in near if cosine >= least)


def refuse_other_texts(runs: Sequence[Run]) -> None:
    """Raises InputError where the runs' test parts are not the same texts with the same gold."""
    prints = {run.run_id: texts_digest(run) for run, _ in runs}
    if len(set(prints.values())) > 1:
        listing = ", ".join(f"{name} ({value[:8]})" for name, value in prints.items())
        raise InputError(
            f"the runs were judged on different texts: {listing}; compare runs whose configs have "
            "the same data section, or only the texts they share, with --common."
        )


def texts_digest(run: RunDirectory) -> str:
    """Digest of the test part: ids, gold labels and texts in order."""
    if read_json(run.split_file) is None:
        raise InputError(f"run {run.run_id} is not finished: it has no data; run it first.")
    rows = read_columns(run.part("test"), "id", "label", "text")
    return digest_lines("\0".join(map(str, row)) for row in rows)
