"""/v1/datasets: upload, list, read, delete; and /v1/configs, what a job may name."""

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from common.task import CONFIGS
from workers.api.auth import Admin, Reader, Submitter
from workers.api.datasets import Dataset, Format
from workers.api.models import ConfigList, ConfigView, DatasetPage, DatasetView
from workers.api.problems import Problem, not_found, responses
from workers.api.state import services_of
from workers.api.submission import OVERRIDES, catalogue

router = APIRouter(tags=["data sets"])

DatasetId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", examples=["0" * 64])]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {
                "schema": {"type": "string", "format": "binary"},
                "example": '{"id": "a", "text": "Net sales rose.", "label": "positive"}\n',
            }
        },
    }
}


@router.post(
    "/v1/datasets",
    status_code=201,
    response_model=DatasetView,
    openapi_extra=_BODY,
    responses={**responses(413, 415, 507), 200: {"description": "Known already"}},
)
async def upload_dataset(
    request: Request,
    response: Response,
    token: Submitter,
    format: Annotated[Format, Query(description="What the body is.")],
    needs: Annotated[
        str,
        Query(max_length=64, pattern=r"^[A-Za-z0-9_ -]+$",
              description="The column every row must have: a data set's text, an answer's label."),
    ] = "text",
) -> DatasetView:  # fmt: skip
    """
    Send a file as the body: JSONL, CSV or Parquet, as it is, not compressed.

    It is read from end to end before it counts. Its id is the SHA-256 of its bytes.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("application/json", "multipart/form-data", "application/x-www-form-urlencoded"):
        raise Problem(415, "send the file itself as application/octet-stream.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "a compressed body is not taken; send the plain file.")
    services = services_of(request)
    _check_length(request.headers.get("content-length"), services.options.most_upload_bytes)
    received = await services.datasets.receive(request.stream())
    dataset, new = await services.datasets.keep(received, format, needs, token.name)
    response.headers["Location"] = f"/v1/datasets/{dataset.id}"
    response.status_code = 201 if new else 200
    return _view(dataset)


@router.get("/v1/datasets", response_model=DatasetPage, responses=responses())
async def list_datasets(request: Request, token: Reader) -> DatasetPage:
    """Every upload, newest first."""
    found = await to_thread.run_sync(services_of(request).datasets.all)
    return DatasetPage(items=[_view(dataset) for dataset in found])


@router.get("/v1/datasets/{dataset_id}", response_model=DatasetView, responses=responses(404))
async def read_dataset(request: Request, dataset_id: DatasetId, token: Reader) -> DatasetView:
    """What is known of an upload."""
    return _view(await to_thread.run_sync(services_of(request).datasets.get, dataset_id))


@router.delete("/v1/datasets/{dataset_id}", status_code=204, responses=responses(404))
async def delete_dataset(request: Request, dataset_id: DatasetId, token: Admin) -> Response:
    """Delete an upload; runs keep their own copy, but those that have not read it yet will fail."""
    await to_thread.run_sync(services_of(request).datasets.delete, dataset_id)
    return Response(status_code=204)


@router.get("/v1/configs", response_model=ConfigList, responses=responses())
async def list_configs(token: Reader) -> ConfigList:
    """The configs a job may name, and what may be overridden in them, with the largest values."""
    items = []
    for name, path in catalogue().items():
        opening = path.read_text(encoding="utf-8").splitlines()[:6]
        about = " ".join(line.lstrip("# ") for line in opening if line.startswith("#"))
        items.append(ConfigView(name=name, about=about[:500]))
    return ConfigList(items=items, overrides=OVERRIDES)


@router.get("/v1/corrections/{task}", response_class=StreamingResponse, responses={
    **responses(404), 200: {"description": "text, label, author and time, a row a line",
    "content": {"application/jsonl": {"schema": {"type": "string"}}}}})  # fmt: skip
async def export_corrections(
    request: Request,
    task: Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", examples=["sentiment"])],
    token: Reader,
) -> StreamingResponse:
    """The labels that people set right on the Labels page, as a data set in JSONL."""
    if task not in {path.stem for path in (CONFIGS / "tasks").glob("*.yaml")}:
        raise not_found("task", task)
    rows = services_of(request).corrections.export(task)
    return StreamingResponse(rows, media_type="application/jsonl")


def _check_length(declared: str | None, most: int) -> None:
    if declared is not None and (not declared.isdecimal() or int(declared) > most):
        raise Problem(413, f"an upload may have {most} bytes.")


def _view(dataset: Dataset) -> DatasetView:
    return DatasetView(**dataset.model_dump())
