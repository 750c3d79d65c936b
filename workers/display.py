"""A job on the screen: a bar per stage on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from workers.job_records import NOTE, REASONS, Job, StageRecord, State

_MARK = {
    State.WAITING: "[dim]·[/]",
    State.QUEUED: "[dim]○[/]",
    State.RUNNING: "[cyan]●[/]",
    State.DONE: "[green]✓[/]",
    State.FAILED: "[red]✗[/]",
    State.CANCELLED: "[yellow]-[/]",
    State.PAUSED: "[yellow]‖[/]",
}


class JobDisplay:
    """`with JobDisplay(console) as display:` then call it with each new state of the job."""

    def __init__(self, console: Console):
        self._console = console
        self._lines = _PlainLines(console)
        self._bars = _Bars(console) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars:
            self._bars.progress.stop()

    def __call__(self, job: Job) -> None:
        (self._bars or self._lines).show(job)


class _Bars:
    def __init__(self, console: Console):
        self.progress = Progress(
            TextColumn("{task.fields[mark]} {task.description:<28}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
        )
        self._ids: dict[str, TaskID] = {}

    def show(self, job: Job) -> None:
        for stage in job.stages:
            if stage.name not in self._ids:
                self._ids[stage.name] = self.progress.add_task(stage.title, mark="", note="")
            total = stage.total or 1
            # Done before anybody counted; a training that was stopped early has not done all.
            done = 1 if stage.state is State.DONE and not stage.total else stage.done
            self.progress.update(
                self._ids[stage.name],
                total=total,
                completed=done,
                mark=_MARK[stage.state],
                note=note(stage, job),
            )


class _PlainLines:
    def __init__(self, console: Console):
        self._console = console
        self._said: dict[str, tuple[State, int]] = {}
        self._reasons: set[tuple[str, str]] = set()

    def show(self, job: Job) -> None:
        for stage in job.stages:
            if self._is_new(stage):
                counted = f"{stage.done}/{stage.total} {stage.unit}" if stage.total > 1 else ""
                parts = [f"{stage.title}: {stage.state}", counted.rstrip(), note(stage, job)]
                line = " ".join(part for part in parts if part)
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _is_new(self, stage: StageRecord) -> bool:
        """Of a stage that waits, why it does, once: it may look for its turn every few seconds."""
        if stage.state in (State.WAITING, State.QUEUED):
            why = {(stage.name, str(stage.info[key])) for key in REASONS if key in stage.info}
            new = not why <= self._reasons
            self._reasons |= why
            return new
        tenth = 10 * stage.done // stage.total if stage.total else 0
        now = (stage.state, tenth if stage.state is State.RUNNING else 0)
        new = self._said.get(stage.name) != now
        self._said[stage.name] = now
        return new


_UNSAID = {"eta_seconds", "seconds"}  # told otherwise: as the time left, and to Prometheus


def note(stage: StageRecord, job: Job | None = None) -> str:
    """The figures beside a stage's bar; with `job` also how fast its services are asked."""
    told = {key: value for key, value in stage.info.items() if key not in _UNSAID}
    parts = [f"{_said(key)} {_figure(value)}".strip() for key, value in told.items()]
    if stage.state is State.DONE and stage.started_at and stage.finished_at:
        parts.append(f"{stage.finished_at - stage.started_at:.0f} s")
    elif eta := _seconds_left(stage):
        parts += [_rate(stage), f"{eta:.0f} s left"]
    if job and stage.name == "label" and stage.state is State.RUNNING:
        parts += [f"{limit:.0f} at a time" for limit in job.pace.values()]
    return ", ".join(part for part in parts if part)


def _said(key: str) -> str:
    return {"usd": "US$", NOTE: ""}.get(key, key)


def _rate(stage: StageRecord) -> str:
    speed = stage.per_second
    return f"{speed:.3g} {stage.unit}/s" if stage.unit and speed is not None else ""


def _seconds_left(stage: StageRecord) -> float | None:
    if stage.state is not State.RUNNING or not stage.started_at or not 0 < stage.done < stage.total:
        return None
    if "eta_seconds" in stage.info:  # a resumed training knows better than its done / total
        return float(stage.info["eta_seconds"])
    passed = time.time() - stage.started_at
    return passed * (stage.total - stage.done) / stage.done


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
