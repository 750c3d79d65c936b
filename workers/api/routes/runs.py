"""/v1/runs: what came out, and students to try."""

import time
from pathlib import Path as FilePath
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic_core import to_json

from common.config import RunConfig
from common.config.comparison import RUN_ID, SYSTEM
from common.data.store import read_records
from common.errors import FinstillError
from common.records import Prediction
from common.task import load_task
from workers.api import jobs_desk
from workers.api.auth import Reader
from workers.api.exports import archive, csv_rows, json_rows, model_members
from workers.api.listing import decode_cursor, encode_cursor, page_of
from workers.api.models import (
    PredictRequest,
    PredictResponse,
    RunDetail,
    RunPage,
)
from workers.api.problems import Problem, not_found, responses
from workers.api.state import Services, services_of
from workers.api.views import known_runs, run_detail, run_view
from workers.graph import system_names
from workers.run_directory import RunDirectory

router = APIRouter(prefix="/v1/runs", tags=["runs"])

RunId = Annotated[str, Path(pattern=RUN_ID, examples=["demo-1a2b3c4d5e"])]
System = Annotated[str, Path(pattern=SYSTEM, examples=["student"])]
MEDIA = {"html": "text/html; charset=utf-8", "md": "text/markdown; charset=utf-8",
         "json": "application/json"}  # fmt: skip
# The report brings its own styles and script. In a sandbox without an origin of its own it can
# reach neither the session nor the API, whatever a text in it says.
REPORT_POLICY = (
    "sandbox allow-scripts allow-popups; default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)


@router.get("", response_model=RunPage, responses=responses())
async def list_runs(
    request: Request,
    token: Reader,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=300, pattern=r"^[A-Za-z0-9_-]+$")] = None,
) -> RunPage:
    """Runs on disk, the last changed first."""
    services, after = services_of(request), decode_cursor(cursor)
    return await to_thread.run_sync(runs_page, services, limit, after)


def runs_page(services: Services, limit: int, after: tuple[float, str] | None) -> RunPage:
    """A page of runs; folders that are no run of this version are passed over."""
    shown, behind = page_of(
        known_runs(services), lambda pair: (pair[0], pair[1].run_id), limit, after
    )
    items = []
    for _, run in shown:
        try:
            items.append(run_view(services, *jobs_desk.run_of(services, run.run_id)))
        except (FinstillError, Problem):
            continue
    return RunPage(items=items, next=encode_cursor(behind) if behind else None)


@router.get("/{run_id}", response_model=RunDetail, responses=responses(404))
async def read_run(request: Request, run_id: RunId, token: Reader) -> RunDetail:
    """One run with its resolved config, what labelling counted and how trainings went."""
    services = services_of(request)
    return await to_thread.run_sync(lambda: run_detail(services, *_run(services, run_id)))


@router.get("/{run_id}/report", response_class=Response,
            responses={**responses(404), 200: {"description": "The comparison", "content": {
                m: {"schema": {"type": "string"}} for m in MEDIA.values()}}})  # fmt: skip
async def read_report(
    request: Request,
    run_id: RunId,
    token: Reader,
    format: Annotated[Literal["html", "md", "json"], Query()] = "html",
) -> Response:
    """The report: every judged system of the run, or of the compared runs, side by side."""
    run = await to_thread.run_sync(jobs_desk.folder_of, services_of(request), run_id)
    return report_of(run, format)


def report_of(run: RunDirectory, form: str) -> Response:
    """A report file with the policy it is shown under. Raises Problem 404."""
    path = run.report(form)
    if not path.is_file():
        raise Problem(404, f"run {run.run_id} has no report yet.")
    headers = {"Content-Security-Policy": REPORT_POLICY} if form == "html" else {}
    return FileResponse(path, media_type=MEDIA[form], headers=headers)


@router.get("/{run_id}/systems/{system}/predictions", response_class=StreamingResponse,
            responses={**responses(404), 200: {"description": "A row per test text", "content": {
                "application/jsonl": {"schema": {"type": "string"}},
                "text/csv": {"schema": {"type": "string"}}}}})  # fmt: skip
async def read_predictions(
    request: Request,
    run_id: RunId,
    system: System,
    token: Reader,
    format: Annotated[Literal["jsonl", "csv"], Query()] = "jsonl",
) -> StreamingResponse:
    """What a system said of every test text."""
    run, config = await to_thread.run_sync(_run, services_of(request), run_id)
    path = run.predictions(_system(config, system))
    if not path.is_file():
        raise Problem(404, f"system '{system}' of run {run_id} has no predictions yet.")
    rows = read_records(path, Prediction)
    name = f"{run_id}-{system}.{format}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    if format == "csv":
        labels = load_task(config.task).label_names
        return StreamingResponse(csv_rows(rows, labels), media_type="text/csv", headers=headers)
    return StreamingResponse(json_rows(rows), media_type="application/jsonl", headers=headers)


@router.get("/{run_id}/systems/{system}/model", response_class=StreamingResponse,
            responses={**responses(404, 409), 200: {"description": "A tar archive of safetensors, "
            "tokenizer and manifest", "content": {"application/x-tar": {"schema": {
                "type": "string", "format": "binary"}}}}})  # fmt: skip
async def read_model(
    request: Request, run_id: RunId, system: System, token: Reader
) -> StreamingResponse:
    """The trained model as an archive; its files name no place on the server."""
    folder = await to_thread.run_sync(model_folder, services_of(request), run_id, system)
    members = await to_thread.run_sync(model_members, folder)
    name = f"{run_id}-{system}"
    headers = {"Content-Disposition": f'attachment; filename="{name}.tar"'}
    blocks = archive(folder, name, members)
    return StreamingResponse(blocks, media_type="application/x-tar", headers=headers)


@router.post("/{run_id}/predict", response_model=PredictResponse,
             responses=responses(404, 413, 504))  # fmt: skip
async def predict(request: Request, run_id: RunId, body: PredictRequest, token: Reader) -> Response:
    """Label texts with a trained system; `rationales` generates reasons too, which takes longer."""
    services, begun = services_of(request), time.perf_counter()
    folder = await to_thread.run_sync(model_folder, services, run_id, body.system, body.export)
    scored = await services.predictors.predict(folder, body.texts, body.rationales)
    told = {
        "run": run_id,
        "system": body.system,
        "milliseconds": round((time.perf_counter() - begun) * 1000, 3),
        "predictions": [
            {
                "label": row.label,
                "probabilities": row.probabilities or {},
                "rationale": row.rationale,
            }
            for row in scored
        ],
    }
    # written as it is: to validate and copy 32 rows first takes as long as computing a few of them
    return Response(to_json(told), media_type="application/json")


def model_folder(
    services: Services, run_id: str, system: str, export: str | None = None
) -> FilePath:
    """Where a trained system, or an export of it, lies. Raises Problem 404."""
    run, config = _run(services, run_id)
    home = run.system(_system(config, system))
    if export:
        if not (home / "exports" / export / "export.json").is_file():
            raise Problem(404, f"system '{system}' of run {run_id} has no export '{export}'.")
        return home / "exports" / export
    folder = home / "model"
    if not folder.is_dir():
        raise Problem(404, f"run {run_id} has no trained system '{system}' yet.")
    return folder


def _run(services: Services, run_id: str) -> tuple[RunDirectory, RunConfig]:
    return jobs_desk.run_of(services, run_id)


def _system(config: RunConfig, system: str) -> str:
    if system not in system_names(config):
        raise not_found("system", system)
    return system
