"""Nobody is judged on texts that its training, or its teacher's prompt, has seen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config import RunConfig
from common.data.fold import fold_key
from common.data.leakage import leaked
from common.data.store import read_columns
from common.errors import InputError
from common.task import load_task
from workers.run_directory import Run, RunDirectory, read_json

Rows = Sequence[tuple[str, str]]
SEEN_PARTS = ("train", "validation")  # the validation part chose the checkpoint


@dataclass(frozen=True)
class Leak:
    """
    What one run has seen of the rows (id, text) it is to be judged on.

    `kept`: those of `ids` that stand on both sides of the split of every run, whose configs
    keep them as published. `shown`: those that its teacher's prompt shows as examples.
    """

    run_id: str
    ids: list[str]
    kept: frozenset[str] = frozenset()
    shown: frozenset[str] = frozenset()

    @property
    def refused(self) -> list[str]:
        """What nobody has agreed to."""
        return [row_id for row_id in self.ids if row_id not in self.kept or row_id in self.shown]


def find_leaks(runs: Sequence[Run], rows: Rows, *, own: bool) -> list[Leak]:
    """
    One leak for each run that has seen any of `rows`; `own`: they are of the runs' tests.

    What a split has on both sides is kept where all runs have it so, and none gains by it alone.
    """
    kept = frozenset.intersection(*map(_kept, runs)) if own else frozenset()
    return [leak for run in runs if (leak := _leak(run, rows, kept)).ids]


def _leak(run: Run, rows: Rows, kept: frozenset[int]) -> Leak:
    directory, config = run
    shown = shown_to_teachers(config)
    ids = leaked(rows, _seen(directory, shown))
    if not ids:
        return Leak(directory.run_id, [])
    keys = {row_id: fold_key(text) for row_id, text in rows}
    return Leak(
        directory.run_id,
        ids,
        kept=frozenset(i for i in ids if keys[i] in kept),
        shown=frozenset(leaked(rows, shown)),
    )


def refuse_leaks(leaks: Sequence[Leak], judged: int) -> None:
    """Raises InputError where a run has seen texts that its config does not keep on purpose."""
    told = [_told(leak) for leak in leaks if leak.refused]
    if told:
        raise InputError(
            f"of the {judged} texts to be judged, {'; '.join(told)}: what was learnt by heart is "
            "no evidence; --drop-leaked takes these texts out for every system and counts them."
        )


def _told(leak: Leak) -> str:
    shown = f", {len(leak.shown)} of them in its teacher's prompt" if leak.shown else ""
    return (
        f"run {leak.run_id} has seen {len(leak.refused)} in training "
        f"(e.g. '{leak.refused[0]}'{shown})"
    )


def leak_notes(leaks: Sequence[Leak]) -> list[str]:
    """What a reader must know of texts that stand in the training part by agreement."""
    return [
        f"{len(leak.ids)} of these texts also stand in the training part of run {leak.run_id}: "
        "the split is kept as published (--drop-leaked takes them out)."
        for leak in leaks
    ]


def dropped_note(leaks: Sequence[Leak], dropped: int, total: int) -> str:
    """How many texts were taken out, and for whom."""
    whom = ", ".join(f"{leak.run_id} ({len(leak.ids)})" for leak in leaks)
    return f"{dropped:,} of {total:,} texts were left out for all systems: seen by {whom}."


def refuse_shown_texts(run: RunDirectory, config: RunConfig, prompts: Path | None = None) -> None:
    """Raises InputError where a teacher's prompt shows texts of the run's own test part."""
    if shown := shown_to_teachers(config, prompts):
        ids = leaked(read_columns(run.part("test"), "id", "text"), shown)
        if ids:
            raise InputError(
                f"the teacher's prompt shows {len(ids)} text(s) of the test part as examples "
                f"(e.g. '{ids[0]}'); take them out of the prompt's few_shots, or out of the data."
            )


def shown_to_teachers(config: RunConfig, prompts: Path | None = None) -> list[str]:
    """The texts of the worked examples in the teachers' prompts (`prompts`: their folder)."""
    if not config.all_teachers:
        return []
    from teacher.prompts import load_prompt

    task = load_task(config.task)
    names = {teacher.prompt or task.teacher_prompt for teacher in config.all_teachers}
    return [shot.text for name in sorted(names) for shot in load_prompt(name, prompts).few_shots]


def _seen(run: RunDirectory, shown: Sequence[str]) -> Iterator[str]:
    yield from shown
    for part in SEEN_PARTS:
        for (text,) in read_columns(run.part(part), "text"):
            yield text


def _kept(run: Run) -> frozenset[int]:
    """Folded keys of the test texts that the run's split has on both sides, as published."""
    directory, config = run
    known = (read_json(directory.split_file) or {}).get("duplicates", {}).get("ids", [])
    if config.data.duplicates != "keep" or not known:
        return frozenset()
    ids = set(known)
    rows = read_columns(directory.part("test"), "id", "text")
    return frozenset(fold_key(text) for row_id, text in rows if row_id in ids)
