"""Nobody is judged on texts that its training, or its teacher's prompt, has seen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

    `kept`: those of `ids` that stand on both sides of the run's own split, which its config
    keeps as published. `shown`: those that its teacher's prompt shows as examples.
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
    """One leak for each run that has seen any of `rows`; `own`: they are of the runs' tests."""
    return [leak for run in runs if (leak := _leak(run, rows, own)).ids]


def _leak(run: Run, rows: Rows, own: bool) -> Leak:
    directory, config = run
    shown = shown_to_teachers(config)
    ids = leaked(rows, _seen(directory, shown))
    if not ids:
        return Leak(directory.run_id, [])
    kept = _kept(run) if own else frozenset()
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


def refuse_shown_texts(run: RunDirectory, config: RunConfig) -> None:
    """Raises InputError where a teacher's prompt shows texts of the run's own test part."""
    if shown := shown_to_teachers(config):
        ids = leaked(read_columns(run.part("test"), "id", "text"), shown)
        if ids:
            raise InputError(
                f"the teacher's prompt shows {len(ids)} text(s) of the test part as examples "
                f"(e.g. '{ids[0]}'); take them out of the prompt's few_shots, or out of the data."
            )


def shown_to_teachers(config: RunConfig) -> list[str]:
    """The texts of the worked examples in the teachers' prompts."""
    if not config.all_teachers:
        return []
    from teacher.prompts import load_prompt

    task = load_task(config.task)
    names = {teacher.prompt or task.teacher_prompt for teacher in config.all_teachers}
    return [shot.text for name in sorted(names) for shot in load_prompt(name).few_shots]


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
