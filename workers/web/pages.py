"""Logging in and out, static files, jobs and the system."""

import shutil
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import urlsplit

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from common.config import ComparisonConfig
from common.config.comparison import RUN_ID
from common.errors import FinstillError
from workers.api import jobs_desk
from workers.api.auth import count_failure
from workers.api.listing import decode_cursor, encode_cursor, page_of_jobs
from workers.api.models import JobRequest, ResumeRequest
from workers.api.problems import Problem, not_found
from workers.api.routes.system import readiness
from workers.api.state import Services, services_of
from workers.api.submission import catalogue
from workers.api.survey import cache_stats, queue_depths, redis_info, teachers, workers
from workers.diagnosis import Finding, diagnose_versions
from workers.job_records import Job, State
from workers.run_directory import RunDirectory, read_json
from workers.tokens import Scope
from workers.web.rendering import render, static_files
from workers.web.unanswered import Unmet, unmet_by_reason
from workers.web.visits import Visit, Visitor, form_of, local_path, our_form

router = APIRouter(include_in_schema=False)
RunId = Annotated[str, Path(pattern=RUN_ID)]


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """A style sheet or script of ours; its address changes with its content."""
    if name not in static_files():
        raise not_found("file", name)
    content, kind = static_files()[name]
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(content, media_type=kind, headers=headers)


@router.get("/")
async def home() -> Response:
    """The jobs are the home page."""
    return RedirectResponse("/jobs", 303)


@router.get("/login")
async def login_page(next: Annotated[str, Query(max_length=300)] = "/jobs") -> Response:
    """Ask for a token."""
    return render("login.html", title="Log in", next=local_path(next), fault=None)


@router.post("/login")
async def login(request: Request) -> Response:
    """Exchange a token for a session."""
    if not _same_origin(request):
        raise Problem(403, "the form came from another site.")
    form = await form_of(request)
    services, wanted = services_of(request), local_path(form.get("next", ""))
    token = await to_thread.run_sync(services.tokens.check, form.get("token", "").strip())
    if token is None:
        await count_failure(services, request)
        fault = "That is no valid token. Make one with: finstill token create NAME"
        return render("login.html", 401, title="Log in", next=wanted, fault=fault)
    response = RedirectResponse(wanted, 303)
    await services.sessions.open(token, response)
    return response


@router.post("/logout")
async def logout(request: Request, visitor: Visitor) -> Response:
    """End the session."""
    await our_form(request, visitor, Scope.READ)
    response = RedirectResponse("/login", 303)
    await visitor.services.sessions.end(request, response)
    return response


@router.get("/jobs")
async def jobs_page(
    visitor: Visitor,
    state: Annotated[State | None, Query()] = None,
    cursor: Annotated[str | None, Query(max_length=300)] = None,
) -> Response:
    """The jobs, live, and a form for a new one."""
    return await to_thread.run_sync(_jobs, visitor, state, cursor, None)


def _jobs(visitor: Visit, state: State | None, cursor: str | None, fault: str | None) -> Response:
    services = visitor.services
    jobs, behind = page_of_jobs(
        services.redis,
        services.jobs,
        25,
        decode_cursor(cursor),
        lambda job: state is None or job.state is state,
    )
    return render(
        "jobs.html",
        422 if fault else 200,
        title="Jobs",
        visitor=visitor,
        jobs=jobs,
        state=state,
        states=list(State),
        next=encode_cursor(behind) if behind else None,
        configs=list(catalogue()),
        fault=fault,
    )


@router.post("/jobs")
async def submit(request: Request, visitor: Visitor) -> Response:
    """Queue a config of the installation."""
    form = await our_form(request, visitor, Scope.SUBMIT)
    try:
        wanted = JobRequest.model_validate(_request_of(form))
        job, _ = await to_thread.run_sync(jobs_desk.take, visitor.services, wanted, visitor.token)
    except (FinstillError, ValueError, Problem) as error:
        told = "a number is not as expected" if isinstance(error, ValueError) else str(error)
        fault = visitor.services.scrub(told)
        return await to_thread.run_sync(_jobs, visitor, None, None, fault)
    return RedirectResponse(f"/jobs/{job.id}", 303)


def _request_of(form: dict[str, str]) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    for name in ("seed", "training.epochs", "training.rationale_weight", "data.train_limit"):
        if text := form.get(name, "").strip():
            number = float(text)
            overrides[name] = int(number) if number.is_integer() else number
    return {"config": form.get("config", ""), "until": form.get("until", "report"),
            "overrides": overrides}  # fmt: skip


@router.get("/jobs/{job_id}")
async def job_page(job_id: RunId, visitor: Visitor) -> Response:
    """One job, live."""
    return await to_thread.run_sync(_job, visitor, job_id)


def _job(visitor: Visit, job_id: str) -> Response:
    services = visitor.services
    job = jobs_desk.job(services, job_id)
    config: Any = None
    dropped: dict[str, int] = {}
    unmet: list[Unmet] = []
    compared: tuple[str, ...] = ()
    with suppress(Problem, FinstillError):
        run, opened = jobs_desk.job_of(services, job_id)
        if isinstance(opened, ComparisonConfig):
            compared = opened.runs
        else:
            config = opened
            dropped = (read_json(run.labels_summary) or {}).get("dropped", {})
            unmet = unmet_by_reason(run, config)
    return render(
        "job.html",
        title=job.id,
        visitor=visitor,
        job=job,
        config=config,
        budget=jobs_desk.budget_of(services, job.id, config) if config else None,
        dropped=dropped,
        unmet=unmet,
        reported=_reported(services, job),
        compared=compared,
        teachers=teachers(services).items,
        fault=services.scrub(job.fault.message) if job.fault else None,
    )


def _reported(services: Services, job: Job) -> bool:
    """A report of before stays in its place; a comparison has none until it is done."""
    report = RunDirectory(services.settings.runs / job.id).report("html")
    return report.exists() and (job.kind != "compare" or job.state is State.DONE)


@router.post("/jobs/{job_id}/cancel")
async def cancel(request: Request, job_id: RunId, visitor: Visitor) -> Response:
    """Stop a job at its next safe point."""
    await our_form(request, visitor, Scope.SUBMIT)
    await to_thread.run_sync(_unless_ended, jobs_desk.cancel, visitor.services, job_id)
    return RedirectResponse(f"/jobs/{job_id}", 303)


@router.post("/jobs/{job_id}/resume")
async def resume(request: Request, job_id: RunId, visitor: Visitor) -> Response:
    """Go on with a job that stopped; an administrator may give a paused one more money."""
    form = await our_form(request, visitor, Scope.SUBMIT)
    more = form.get("max_usd", "").strip()
    if more:
        jobs_desk.require_budget_scope(visitor.token)
    try:
        wanted = ResumeRequest(max_usd=float(more) if more else None)
    except ValueError:
        raise Problem(422, "the budget must be a number of dollars above 0.") from None
    await to_thread.run_sync(
        _unless_ended, jobs_desk.resume, visitor.services, job_id, wanted.max_usd
    )
    return RedirectResponse(f"/jobs/{job_id}", 303)


def _unless_ended(change: Any, services: Services, job_id: str, *more: Any) -> None:
    """Two people pressing the same button both come to the job's page."""
    try:
        change(services, job_id, *more)
    except Problem as problem:
        if problem.status != 409:
            raise


@router.get("/system")
async def system_page(visitor: Visitor) -> Response:
    """Workers, queues, Redis, disk, models, versions."""
    return await to_thread.run_sync(_system, visitor)


def _system(visitor: Visit) -> Response:
    services = visitor.services
    disk = shutil.disk_usage(services.settings.runs)
    versions: list[Finding] = list(diagnose_versions())
    return render(
        "system.html",
        title="System",
        visitor=visitor,
        checks=readiness(services),
        workers=workers(services),
        depths=queue_depths(services),
        redis=redis_info(services),
        disk=disk,
        cache=cache_stats(services),
        teachers=teachers(services).items,
        models=services.predictors.loaded,
        datasets=services.datasets.all(),
        versions=versions,
    )


def _same_origin(request: Request) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
