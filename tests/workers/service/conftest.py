"""The service over a real Redis, called without a network; its worker is merely announced."""

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.doubles.workers import note_worker
from workers.api.app import create_app
from workers.api.datasets import DatasetStore, Received
from workers.api.state import Options
from workers.embedded_redis import EmbeddedRedis
from workers.services import Settings
from workers.tokens import Scope, Tokens

Answer = httpx2.Response


@pytest.fixture
def settings(tmp_path: Path, server: EmbeddedRedis) -> Settings:
    return Settings(
        redis_url=server.url,
        runs=tmp_path / "runs",
        state=tmp_path / "state",
        threads=1,
        anthropic_api_key="sk-planted-anthropic-key",
    )


@pytest.fixture
def app(settings: Settings, client: redis.Redis) -> FastAPI:
    note_worker(client, "host:1", "label", "train", "evaluate")
    return create_app(settings, Options(most_upload_bytes=32 << 20))


@pytest.fixture
def web(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as caller:
        yield caller


@pytest.fixture
def bearer(client: redis.Redis) -> Callable[..., dict[str, str]]:
    """Headers with a new token of a scope."""

    def make(scope: str = "read", requests_per_minute: int = 1_000_000) -> dict[str, str]:
        _, text = Tokens(client).create(f"test {scope}", Scope(scope), requests_per_minute)
        return {"Authorization": f"Bearer {text}"}

    return make


@pytest.fixture
def reader(bearer: Callable[..., dict[str, str]]) -> dict[str, str]:
    return bearer("read")


@pytest.fixture
def submitter(bearer: Callable[..., dict[str, str]]) -> dict[str, str]:
    return bearer("submit")


@pytest.fixture
def admin(bearer: Callable[..., dict[str, str]]) -> dict[str, str]:
    return bearer("admin")


@pytest.fixture
def login(web: TestClient, bearer: Callable[..., dict[str, str]]) -> Callable[..., str]:
    """Log in with a new token of a scope; the session's form secret."""

    def enter(scope: str = "submit") -> str:
        token = bearer(scope)["Authorization"].removeprefix("Bearer ")
        answer = web.post("/login", data={"token": token, "next": "/jobs"}, follow_redirects=False)
        assert answer.status_code == 303, answer.text
        page = web.get("/jobs", headers={"Accept": "text/html"}).text
        found = re.search(r'name="csrf" value="([^"]+)"', page)
        assert found is not None
        return found.group(1)

    return enter


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one finished run on sentences of our own: tiny, three steps."""
    from common.config import validate_config
    from workers.pipeline import LocalRun

    folder = tmp_path_factory.mktemp("finished")
    rows = [
        {"id": f"r{i}", "text": text.format(i), "label": label, "split": split}
        for i in range(12)
        for split in ("train", "test")
        for text, label in SENTENCES[split].items()
    ]
    for number, row in enumerate(rows):
        row["id"] = f"r{number}"
    answers = [{"id": row["id"], "label": row["label"], "rationale": WHY} for row in rows]
    for name, table in (("rows", rows), ("answers", answers)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    tree = tiny_run(folder / "rows.jsonl", folder / "answers.jsonl")
    settings = Settings(redis_url=None, runs=folder / "runs", state=folder / "state", threads=1)
    LocalRun(settings, validate_config(tree, "test"), "report", lambda job: None).execute()
    return folder / "runs"


@pytest.fixture(scope="session")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder of uploads: one row and the answer to it."""
    folder = tmp_path_factory.mktemp("uploads")
    store = DatasetStore(folder, 1 << 20, 1000)
    ids = []
    for row in ({"id": "a", "text": "Up.", "label": "positive"}, {"id": "a", "label": "neutral"}):
        file = folder / "incoming"
        file.write_text(json.dumps(row))
        received = Received(file, sha256(file.read_bytes()).hexdigest(), file.stat().st_size)
        dataset, _ = asyncio.run(store.keep(received, "jsonl", "label", "test"))
        ids.append(f"upload:{dataset.id}")
    return folder, ids


@pytest.fixture
def uploads(uploaded: tuple[Path, list[str]], settings: Settings) -> list[str]:
    """The same two uploads where this test's service looks."""
    shutil.copytree(uploaded[0], settings.runs / ".datasets")
    return uploaded[1]


HTML = "<script>alert('x')</script>"
WHY = "The figure moved and investors will notice the change."
SENTENCES = {
    "train": {
        "Sales of unit {} rose sharply.": "positive",
        "Sales of unit {} fell sharply.": "negative",
        "Unit {} opens on Monday.": "neutral",
    },
    "test": {
        "Orders at plant {} climbed.": "positive",
        "Orders at plant {} collapsed.": "negative",
        "Plant {} is in Ghent " + HTML + ".": "neutral",
    },
}


def tiny_run(rows: Path | str, answers: Path | str) -> dict[str, Any]:
    """A config of the smallest run there can be."""
    return {
        "name": "small",
        "task": "sentiment",
        "data": {"kind": "jsonl", "path": str(rows), "split": {"kind": "column"}},
        "teacher": {"kind": "recorded", "name": "claude", "answers": str(answers)},
        "student": {
            "architecture": "seq2seq",
            "model": "tiny-random",
            "tiny": {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 16, "vocabulary": 300},
            "max_rationale_tokens": 8,
        },
        "training": {"max_steps": 3, "evaluations": 1},
        "baselines": {"majority": {"kind": "majority"}},
        "evaluation": {"bootstrap": 200, "rationale_rows": 2},
    }


@pytest.fixture
def run_id(finished: Path, settings: Settings) -> str:
    """The finished run, copied to where this test's service looks."""
    settings.runs.mkdir(parents=True, exist_ok=True)
    shutil.copytree(finished, settings.runs, dirs_exist_ok=True)
    return next(settings.runs.glob("small-*")).name


@pytest.fixture
def inline() -> Callable[..., dict[str, Any]]:
    """The smallest run as an inline config."""
    return tiny_run
