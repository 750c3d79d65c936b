"""A whole run in this process, without a broker: the same stages in the same order."""

import time
from collections.abc import Callable
from typing import Any

from common.config import RunConfig
from common.errors import FinstillError
from common.task import load_task
from workers.corrections import Corrections
from workers.foresight import require_trainable_students
from workers.graph import Stage, fingerprint, is_done, stages_until
from workers.job_records import Fault, Job, StageRecord, State
from workers.run_directory import RunDirectory, create_run
from workers.services import Settings
from workers.stages import run_stage
from workers.stages.context import StageContext

Show = Callable[[Job], None]


class LocalRun:
    """Runs the stages one after the other and shows them as a job would be shown."""

    def __init__(self, settings: Settings, config: RunConfig, until: str, show: Show):
        require_trainable_students(config, until, here=True)
        self.config = config
        self.run: RunDirectory = create_run(settings.runs, config)
        corrections = Corrections(settings.runs / ".corrections")
        corrections.pin(self.run, config.task, load_task(config.task).label_names)
        self._settings = settings
        self._show = show
        self._begun = time.time()
        self._stages = stages_until(config, until)
        self._records = {s.name: StageRecord(name=s.name, title=s.title) for s in self._stages}

    def execute(self, only: Stage | None = None) -> Job:
        """
        Do what is not done yet, or one stage alone.

        Raises the FinstillError that stopped it; finished stages stay.
        """
        for stage in [only] if only else self._stages:
            if is_done(self.run, self.config, stage.name):
                self._update(stage, state=State.DONE)
                continue
            self._one(stage)
        return self._job(State.DONE)

    def _one(self, stage: Stage) -> None:
        begun = time.time()
        made_from = fingerprint(self.config, stage.name, self.run.corrections)
        self._update(stage, state=State.RUNNING, started_at=begun)
        try:
            while (again := run_stage(self._context(stage), stage)) is not None:
                time.sleep(again)
        except FinstillError as error:
            fault = Fault(kind=type(error).__name__, message=str(error))
            self._update(stage, state=State.FAILED, fault=fault)
            raise
        seconds = time.time() - begun
        self.run.mark_done(stage.name, made_from, seconds)
        whole = self._records[stage.name].whole
        self._update(stage, state=State.DONE, done=whole, finished_at=time.time())

    def _context(self, stage: Stage) -> StageContext:
        def report(
            done: int, total: int, unit: str = "", info: dict[str, Any] | None = None
        ) -> None:
            self._update(stage, done=done, total=total, unit=unit, info=info or {})

        return StageContext(
            settings=self._settings,
            run=self.run,
            config=self.config,
            report=report,
            cancelled=lambda: False,
        )

    def _update(self, stage: Stage, **changes: Any) -> None:
        self._records[stage.name] = self._records[stage.name].model_copy(update=changes)
        self._show(self._job(State.RUNNING))

    def _job(self, state: State) -> Job:
        return Job(
            id=self.run.run_id,
            kind="local",
            created_at=self._begun,
            state=state,
            stages=list(self._records.values()),
        )
