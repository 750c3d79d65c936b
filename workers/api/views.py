"""Records as they are told to clients: without secrets, without the server's folders."""

from pathlib import Path
from typing import Any

from common.config import RunConfig
from workers.api.models import FaultView, JobView, RunDetail, RunView, StageView
from workers.api.state import Services
from workers.graph import stages_of, system_names
from workers.job_records import Fault, Job, StageRecord
from workers.run_directory import RunDirectory, list_runs, read_json


def job_view(services: Services, job: Job) -> JobView:
    """A job with its addresses."""
    base, run = f"/v1/jobs/{job.id}", f"/v1/runs/{job.id}"
    made = {"report": f"{run}/report"} if job.kind == "compare" else {"run": run}
    return JobView(
        id=job.id,
        kind=job.kind,
        state=job.state,
        created_at=job.created_at,
        stages=[_stage(services, stage) for stage in job.stages],
        counters=job.counters,
        fault=_fault(services, job.fault),
        links={"self": base, "events": f"{base}/events", **made},
    )


def _stage(services: Services, stage: StageRecord) -> StageView:
    return StageView(
        name=stage.name,
        title=stage.title,
        state=stage.state,
        done=stage.done,
        total=stage.total,
        unit=stage.unit,
        started_at=stage.started_at,
        finished_at=stage.finished_at,
        worker=stage.worker,
        info=services.scrubbed(stage.info),
        fault=_fault(services, stage.fault),
    )


def _fault(services: Services, fault: Fault | None) -> FaultView | None:
    return FaultView(kind=fault.kind, message=services.scrub(fault.message)) if fault else None


def known_runs(services: Services) -> list[tuple[float, RunDirectory]]:
    """Every run with the time its folder changed last, newest first."""
    runs = [(_changed(run), run) for run in list_runs(services.settings.runs)]
    return sorted(runs, key=lambda pair: (pair[0], pair[1].run_id), reverse=True)


def run_view(services: Services, run: RunDirectory, config: RunConfig) -> RunView:
    """What the list of runs shows."""
    systems = system_names(config)
    base = f"/v1/runs/{run.run_id}"
    reported = run.report("html").exists()
    links = {"self": base, "predict": f"{base}/predict"}
    if reported:
        links["report"] = f"{base}/report"
    return RunView(
        id=run.run_id,
        name=config.name,
        task=config.task,
        description=services.scrub(config.description),
        modified_at=_changed(run),
        reported=reported,
        stages_done=[name for name in stages_of(config) if run.marker(name).exists()],
        systems=systems,
        trained=[name for name in systems if (run.system(name) / "model").is_dir()],
        accuracy={name: value for name in systems if (value := _accuracy(run, name)) is not None},
        links=links,
    )


def run_detail(services: Services, run: RunDirectory, config: RunConfig) -> RunDetail:
    """Everything about one run that is not a table."""
    trainings = {
        name: read_json(run.training_summary(name)) or {} for name in config.trained_systems
    }
    return RunDetail(
        **run_view(services, run, config).model_dump(),
        config=services.scrubbed(config.model_dump(mode="json")),
        labelling=services.scrubbed(read_json(run.labels_summary)),
        trainings=services.scrubbed(trainings),
    )


def _accuracy(run: RunDirectory, name: str) -> float | None:
    report = read_json(run.evaluation(name))
    return _number(report, "metrics", "accuracy", "value") if report else None


def _number(tree: Any, *path: str) -> float | None:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return float(tree) if isinstance(tree, int | float) else None


def _changed(run: RunDirectory) -> float:
    marks: list[Path] = [run.config_file, run.root / "stages", run.report("html")]
    return max((path.stat().st_mtime for path in marks if path.exists()), default=0.0)
