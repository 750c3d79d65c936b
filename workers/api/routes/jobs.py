"""/v1/jobs: submit, list, read, watch, stop, resume."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Body, Header, Path, Query, Request, Response, status
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from common.config.comparison import RUN_ID
from workers.api import jobs_desk
from workers.api.auth import Reader, Submitter
from workers.api.listing import decode_cursor, encode_cursor, page_of_jobs
from workers.api.models import JobPage, JobRequest, JobView, Kind, ResumeRequest
from workers.api.problems import Problem, responses
from workers.api.snapshots import Snapshots
from workers.api.state import Services, services_of
from workers.api.views import job_view
from workers.job_records import Job, State

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

JobId = Annotated[str, Path(pattern=RUN_ID, examples=["demo-1a2b3c4d5e"])]
Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$",
           examples=["3f0c9a52"], description="The same key and body again change nothing."),
]  # fmt: skip
WATCH_SECONDS = 0.5
BEAT_SECONDS = 15.0
LONGEST_WATCH_SECONDS = 6 * 3600


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=JobView,
    responses={**responses(409, 413), 200: {"description": "It runs or is done already"}},
)
async def submit_job(
    request: Request, response: Response, body: JobRequest, token: Submitter, key: Key = None
) -> JobView:
    """
    Queue a labelling, a training, an evaluation, a whole run, or a comparison of runs.

    202 when it was queued, 200 when the same config runs or was submitted under the same
    `Idempotency-Key` before.
    """
    services = services_of(request)
    job, fresh = await to_thread.run_sync(jobs_desk.take, services, body, token, key)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    response.status_code = status.HTTP_202_ACCEPTED if fresh else status.HTTP_200_OK
    snapshots(request).forget()
    return job_view(services, job)


@router.get("", response_model=JobPage, responses=responses())
async def list_jobs(
    request: Request,
    token: Reader,
    state: Annotated[State | None, Query(description="Only jobs in this state.")] = None,
    until: Annotated[Kind | None, Query(description="Only jobs up to this stage.")] = None,
    name: Annotated[
        str | None, Query(max_length=64, description="Only jobs whose id starts so.",
                          pattern=r"^[a-z0-9._-]*$", examples=["demo"])
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=300, pattern=r"^[A-Za-z0-9_-]+$")] = None,
) -> Response:  # fmt: skip
    """
    Jobs, newest first. What is shown is at most a second old: many readers share one look.
    """
    services = services_of(request)
    after = decode_cursor(cursor)

    def wanted(job: Job) -> bool:
        return (
            (state is None or job.state is state)
            and (until is None or job.kind == until)
            and (name is None or job.id.startswith(name))
        )

    def look() -> bytes:
        jobs, behind = page_of_jobs(services.redis, services.jobs, limit, after, wanted)
        page = JobPage(
            items=[job_view(services, job) for job in jobs],
            next=encode_cursor(behind) if behind else None,
        )
        return page.model_dump_json().encode()

    asked = (state, until, name, limit, cursor)
    return Response(await snapshots(request).get(asked, look), media_type="application/json")


@router.get("/{job_id}", response_model=JobView, responses=responses(404))
async def read_job(request: Request, job_id: JobId, token: Reader) -> JobView:
    """One job: its stages, counters and, when it failed, why."""
    services = services_of(request)
    return job_view(services, await to_thread.run_sync(jobs_desk.job, services, job_id))


@router.post("/{job_id}/cancel", status_code=202, response_model=JobView,
             responses=responses(404, 409))  # fmt: skip
async def cancel_job(request: Request, job_id: JobId, token: Submitter) -> JobView:
    """Stop at the next safe point: answers are kept, a training keeps its checkpoint."""
    services = services_of(request)
    job = await to_thread.run_sync(jobs_desk.cancel, services, job_id)
    snapshots(request).forget()
    return job_view(services, job)


@router.post("/{job_id}/resume", status_code=202, response_model=JobView,
             responses=responses(404, 409))  # fmt: skip
async def resume_job(
    request: Request,
    job_id: JobId,
    token: Submitter,
    body: Annotated[ResumeRequest | None, Body(examples=[{"max_usd": 20}])] = None,
) -> JobView:
    """
    Go on with a job that failed, was cancelled or paused; finished stages are not repeated.

    With `max_usd` under another budget, which needs the scope `admin`.
    """
    services = services_of(request)
    more = body.max_usd if body else None
    if more is not None:
        jobs_desk.require_budget_scope(token)
    job = await to_thread.run_sync(jobs_desk.resume, services, job_id, more)
    snapshots(request).forget()
    return job_view(services, job)


@router.get("/{job_id}/events", response_class=StreamingResponse,
            responses={**responses(404), 200: {
                "description": "Server-sent events: `job` with every change, then `end`",
                "content": {"text/event-stream": {"schema": {"type": "string"}, "example":
                            'event: job\ndata: {"id": "demo-1a2b3c4d5e"}\n\n'}}}})  # fmt: skip
async def watch_job(request: Request, job_id: JobId, token: Reader) -> StreamingResponse:
    """The job as it changes, until it ends."""
    services = services_of(request)
    await to_thread.run_sync(jobs_desk.job, services, job_id)
    if services.streams.locked():
        raise Problem(429, "too many streams are open.", headers={"Retry-After": "10"})
    await services.streams.acquire()
    return StreamingResponse(_events(request, services, job_id), media_type="text/event-stream")


async def _events(request: Request, services: Services, job_id: str) -> AsyncIterator[bytes]:
    last, silent_since, ends = None, time.monotonic(), time.monotonic() + LONGEST_WATCH_SECONDS
    try:
        yield b"retry: 2000\n\n"
        while time.monotonic() < ends and not request.app.state.stopping.is_set():
            job = await to_thread.run_sync(jobs_desk.job, services, job_id)
            if job != last:
                last, silent_since = job, time.monotonic()
                yield b"event: job\ndata: " + to_json(job_view(services, job)) + b"\n\n"
            if job.ended:
                yield b"event: end\ndata: " + to_json({"state": job.state}) + b"\n\n"
                return
            if time.monotonic() - silent_since > BEAT_SECONDS:
                silent_since = time.monotonic()
                yield b": still here\n\n"
            await asyncio.sleep(WATCH_SECONDS)
    finally:
        services.streams.release()


def snapshots(request: Request) -> Snapshots:
    """The application's shared looks at the list."""
    found: Snapshots = request.app.state.snapshots
    return found
