"""Runs, trying a student, and the labels."""

import time
from typing import Annotated, Any

import yaml
from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from common.config import RunConfig
from common.config.comparison import RUN_ID
from common.errors import FinstillError
from common.task import load_task
from workers.api import jobs_desk
from workers.api.datasets import Format
from workers.api.listing import decode_cursor
from workers.api.models import PredictRequest
from workers.api.problems import Problem
from workers.api.routes.runs import model_folder, report_of, runs_page
from workers.api.state import Services
from workers.api.views import run_detail
from workers.corrections import Correction
from workers.live_curve import read_curve
from workers.run_directory import RunDirectory, read_json
from workers.tokens import Scope
from workers.web.curves import panels
from workers.web.labels import PAGE_ROWS, Filter, find_text, label_figures, page_of_rows
from workers.web.rendering import render
from workers.web.sessions import form_is_ours
from workers.web.visits import Visit, Visitor, our_form

router = APIRouter(include_in_schema=False)
RunId = Annotated[str, Path(pattern=RUN_ID)]


@router.get("/runs")
async def runs(
    visitor: Visitor, cursor: Annotated[str | None, Query(max_length=300)] = None
) -> Response:
    """Every run, the last changed first."""
    after = decode_cursor(cursor)
    page = await to_thread.run_sync(runs_page, visitor.services, 25, after)
    return render("runs.html", title="Runs", visitor=visitor, page=page)


@router.get("/runs/{run_id}")
async def run(
    run_id: RunId, visitor: Visitor, against: Annotated[str, Query(max_length=120)] = ""
) -> Response:
    """One run: systems, curves, labelling, config, and how it differs from another."""
    return await to_thread.run_sync(_run, visitor, run_id, against)


def _run(visitor: Visit, run_id: str, against: str) -> Response:
    services = visitor.services
    directory, config = jobs_desk.run_of(services, run_id)
    told = run_detail(services, directory, config)
    others = [item.id for item in runs_page(services, 100, None).items if item.id != run_id]
    return render(
        "run.html",
        title=run_id,
        visitor=visitor,
        run=told,
        curves={name: panels(history(directory, name)) for name in config.trained_systems},
        config=yaml.safe_dump(told.config, sort_keys=False, allow_unicode=True),
        others=others,
        against=against if against in others else "",
        differences=_differences(services, config, against) if against in others else [],
    )


def history(directory: RunDirectory, system: str) -> list[dict[str, Any]]:
    """What a training logged: of the finished one, else up to now, else of its checkpoint."""
    done = read_json(directory.training_summary(system))
    if done:
        return list(done.get("history", []))
    if live := read_curve(directory.live_curve(system)):
        return live
    folders = directory.checkpoints(system).glob("checkpoint-*/ledger.json")
    newest = max(folders, key=lambda path: path.stat().st_mtime, default=None)
    return list((read_json(newest) or {}).get("history", [])) if newest else []


def _differences(services: Services, config: RunConfig, against: str) -> list[tuple[str, Any, Any]]:
    _, other = jobs_desk.run_of(services, against)
    ours, theirs = (dict(_flat(services.scrubbed(c.model_dump(mode="json")), ""))
                    for c in (config, other))  # fmt: skip
    keys = sorted(ours.keys() | theirs.keys())
    return [(k, ours.get(k, "-"), theirs.get(k, "-")) for k in keys if ours.get(k) != theirs.get(k)]


def _flat(value: Any, path: str) -> Any:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


@router.get("/runs/{run_id}/report")
async def report(run_id: RunId, visitor: Visitor) -> Response:
    """The report, in its sandbox."""
    folder = await to_thread.run_sync(jobs_desk.folder_of, visitor.services, run_id)
    return report_of(folder, "html")


@router.get("/try")
async def try_page(visitor: Visitor, run: Annotated[str, Query(max_length=120)] = "") -> Response:
    """A box for a text."""
    return await _try(visitor, {"system": run})


@router.post("/try")
async def try_text(request: Request, visitor: Visitor) -> Response:
    """Label a text with a student, next to what the teacher said of it, were it asked."""
    return await _try(visitor, await our_form(request, visitor, Scope.READ))


async def _try(visitor: Visit, form: dict[str, str]) -> Response:
    page = await to_thread.run_sync(runs_page, visitor.services, 100, None)
    systems = [f"{item.id}/{name}" for item in page.items for name in item.trained]
    chosen = next((s for s in systems if s.startswith(form.get("system") or "\0")), "")
    text, fault, answer = form.get("text", "").strip(), None, None
    if text and not chosen:
        fault = "Choose a trained system first."
    elif text:
        try:
            answer = await _answer(visitor.services, chosen, text, "rationale" in form)
        except (FinstillError, Problem, ValueError) as error:
            told = "the text is too long." if isinstance(error, ValueError) else str(error)
            fault = visitor.services.scrub(told)
    return render("try.html", 422 if fault else 200, title="Try it", visitor=visitor,
                  systems=systems, chosen=chosen or next(iter(systems), ""), text=text,
                  answer=answer, rationale="rationale" in form or not form.get("text"),
                  fault=fault)  # fmt: skip


async def _answer(services: Services, chosen: str, text: str, rationale: bool) -> dict[str, Any]:
    run_id, _, system = chosen.rpartition("/")
    wanted = PredictRequest(texts=[text.replace("\r\n", "\n")], system=system, rationales=rationale)
    folder = await to_thread.run_sync(model_folder, services, run_id, system)
    begun = time.perf_counter()
    scored = (await services.predictors.predict(folder, wanted.texts, rationale))[0]
    seconds = time.perf_counter() - begun
    directory, _config = await to_thread.run_sync(jobs_desk.run_of, services, run_id)
    row = await to_thread.run_sync(find_text, directory, text)
    return {"scored": scored, "milliseconds": 1000 * seconds, "row": row}


@router.post("/datasets")
async def upload(
    request: Request,
    visitor: Visitor,
    format: Annotated[Format, Query()],
    needs: Annotated[str, Query(max_length=64, pattern=r"^[A-Za-z0-9_ -]+$")] = "text",
) -> Response:
    """The System page's upload; its script repeats the session's secret in a header."""
    if not form_is_ours(request, request.headers.get("x-csrf", ""), visitor.csrf):
        raise Problem(403, "the upload did not come from this session's own page.")
    if not visitor.may("submit"):
        raise Problem(403, "this needs the scope 'submit'.")
    store = visitor.services.datasets
    received = await store.receive(request.stream())
    dataset, _ = await store.keep(received, format, needs, visitor.token.name)
    return JSONResponse({"id": dataset.id, "rows": dataset.rows}, 201)


@router.get("/labels")
async def labels_home(visitor: Visitor) -> Response:
    """Runs that have labels."""
    page = await to_thread.run_sync(runs_page, visitor.services, 100, None)
    items = [item for item in page.items if "collect" in item.stages_done]
    return render("labels.html", title="Labels", visitor=visitor, items=items, run=None)


@router.get("/labels/{run_id}")
async def labels(
    run_id: RunId,
    visitor: Visitor,
    label: Annotated[str, Query(max_length=60)] = "",
    words: Annotated[str, Query(max_length=100)] = "",
    only: Annotated[str, Query(pattern="^(|unanswered|disagreeing|corrected)$")] = "",
    start: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Response:
    """Distribution, confidence, agreement; answers to browse and set right."""
    wanted = Filter(label, words, only)
    return await to_thread.run_sync(_labels, visitor, run_id, wanted, start)


def _labels(visitor: Visit, run_id: str, wanted: Filter, start: int) -> Response:
    directory, config = jobs_desk.run_of(visitor.services, run_id)
    if not directory.answers.is_file():
        raise Problem(404, f"run {run_id} has no answers yet.")
    rows, more = page_of_rows(directory, visitor.services.corrections, config.task, wanted, start)
    return render(
        "labels.html",
        title=f"Labels of {run_id}",
        visitor=visitor,
        items=[],
        run=run_id,
        rows=rows,
        wanted=wanted,
        start=start,
        step=PAGE_ROWS,
        more=more,
        names=load_task(config.task).label_names,
        **label_figures(directory),
    )


@router.post("/labels/{run_id}")
async def correct(request: Request, run_id: RunId, visitor: Visitor) -> Response:
    """Flag a text for review, set its label right, or take that back."""
    form = await our_form(request, visitor, Scope.SUBMIT)
    _, config = await to_thread.run_sync(jobs_desk.run_of, visitor.services, run_id)
    names = load_task(config.task).label_names
    label, act = form.get("label", ""), form.get("act", "")
    text = form.get("text", "")
    if act not in ("flag", "correct", "withdraw") or not 0 < len(text) <= 100_000:
        raise Problem(422, "the form is incomplete.")
    if act == "correct" and label not in names:
        raise Problem(422, f"the label must be one of {', '.join(names)}.")
    correction = Correction.model_validate(
        {"text": text, "label": label if act == "correct" else None, "kind": act,
         "before": form.get("before") or None, "author": visitor.token.name, "at": time.time(),
         "note": form.get("note", "")[:500]}
    )  # fmt: skip
    await to_thread.run_sync(visitor.services.corrections.add, config.task, correction)
    back = form.get("back", "")
    return RedirectResponse(f"/labels/{run_id}?{back}" if back.isascii() else f"/labels/{run_id}",
                            303)  # fmt: skip
