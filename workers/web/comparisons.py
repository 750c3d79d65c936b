"""The Compare page: runs are chosen, a job compares them, its report stays."""

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from common.config import ComparisonConfig
from common.config.comparison import MOST_RUNS
from common.errors import FinstillError
from workers.api import jobs_desk
from workers.api.models import JobRequest
from workers.api.problems import Problem
from workers.api.routes.runs import runs_page
from workers.job_records import Job, State
from workers.run_directory import list_comparisons
from workers.tokens import Scope
from workers.web.rendering import render
from workers.web.visits import Visit, Visitor, our_form

router = APIRouter(include_in_schema=False)
MOST_SHOWN = 25
CHOSEN = "run:"  # a box that is ticked sends this and the run's id as its name


@router.get("/compare")
async def compare_page(visitor: Visitor) -> Response:
    """Runs to choose from, and what was compared before."""
    return await to_thread.run_sync(_page, visitor, None)


def _page(visitor: Visit, fault: str | None) -> Response:
    services = visitor.services
    runs = [item for item in runs_page(services, 100, None).items if item.accuracy]
    earlier = list_comparisons(services.settings.runs, MOST_SHOWN)
    return render("compare.html", 422 if fault else 200, title="Compare", visitor=visitor,
                  items=runs, earlier=earlier, fault=fault)  # fmt: skip


@router.post("/compare")
async def compare(request: Request, visitor: Visitor) -> Response:
    """Queue the comparison of the chosen runs; the report of one that was done before."""
    form = await our_form(request, visitor, Scope.SUBMIT)
    try:
        job = await to_thread.run_sync(_take, visitor, form)
    except (FinstillError, Problem) as error:
        return await to_thread.run_sync(_page, visitor, visitor.services.scrub(str(error)))
    where = f"/runs/{job.id}/report" if job.state is State.DONE else f"/jobs/{job.id}"
    return RedirectResponse(where, 303)


def _take(visitor: Visit, form: dict[str, str]) -> Job:
    chosen = sorted(name.removeprefix(CHOSEN) for name in form if name.startswith(CHOSEN))
    if not 1 <= len(chosen) <= MOST_RUNS:
        raise Problem(422, f"{len(chosen) or 'no'} runs are chosen; tick 1 to {MOST_RUNS}.")
    try:
        config = ComparisonConfig.model_validate(
            {"runs": chosen, "common": "common" in form, "drop_leaked": "drop_leaked" in form}
        )
    except ValidationError as error:
        raise Problem(422, f"these runs cannot be compared: {error.errors()[0]['msg']}.") from None
    return jobs_desk.take(visitor.services, JobRequest(compare=config), visitor.token)[0]
