"""Comparisons as jobs: asked for over HTTP or on the page, done by a worker, kept as a report."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from workers.desk import Desk
from workers.execution import execute
from workers.graph import Stage
from workers.run_directory import RunDirectory, read_json, write_json
from workers.services import Settings

Headers = dict[str, str]
PAGE = {"Accept": "text/html"}


def nowhere(stage: Stage, run_id: str, chunk: int | None, countdown: float = 0.0) -> None:
    """A comparison has no stage to follow."""
    raise AssertionError(f"{stage.name} of {run_id} was sent")


@pytest.fixture
def work(settings: Settings, client: redis.Redis) -> Callable[[str], bool]:
    """What a worker does when the comparison's task is delivered to it."""
    desk = Desk(settings, client, nowhere)
    return lambda job_id: execute(desk, job_id, "compare")


@pytest.fixture
def twin(run_id: str, settings: Settings) -> str:
    """The finished run once more under another id, as if of another seed."""
    other = "small-0123456789"
    shutil.copytree(settings.runs / run_id, settings.runs / other)
    config = read_json(settings.runs / other / "config.json")
    write_json(settings.runs / other / "config.json", {**config, "seed": config["seed"] + 1})
    return other


def ask(web: TestClient, headers: Headers, *runs: str, **more: Any) -> Any:
    return web.post("/v1/jobs", json={"compare": {"runs": runs, **more}}, headers=headers)


def test_a_comparison_is_a_job_that_a_worker_does_and_whose_report_stays(
    web: TestClient, submitter: Headers, client: redis.Redis, work: Callable[[str], bool],
    run_id: str, twin: str,
) -> None:  # fmt: skip
    asked = ask(web, submitter, run_id, twin, only=["student"])

    job = asked.json()
    assert asked.status_code == 202
    assert (job["kind"], job["state"]) == ("compare", "queued")
    assert [stage["name"] for stage in job["stages"]] == ["compare"]
    assert client.llen("finstill:celery:evaluate") == 1
    assert web.get(job["links"]["report"], headers=submitter).status_code == 404

    assert work(job["id"])

    job = web.get(job["links"]["self"], headers=submitter).json()
    report = web.get(f"{job['links']['report']}?format=json", headers=submitter).json()
    assert job["state"] == "done"
    assert report["context"]["run_id"] == f"{run_id} {twin}"
    assert {one["system"]["name"].partition("/")[2] for one in report["systems"]} == {"student"}
    assert f"finstill compare {run_id} {twin} --only student" in report["context"]["commands"]


def test_what_was_compared_before_is_not_compared_again_until_a_run_was_judged_anew(
    web: TestClient, submitter: Headers, work: Callable[[str], bool], settings: Settings,
    run_id: str,
) -> None:  # fmt: skip
    job_id = ask(web, submitter, run_id).json()["id"]
    work(job_id)

    again = ask(web, submitter, run_id)
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (200, job_id, "done")

    RunDirectory(settings.runs / run_id).mark_done("evaluate:student", "judged anew", 1.0)
    anew = ask(web, submitter, run_id)
    assert (anew.status_code, anew.json()["id"], anew.json()["state"]) == (202, job_id, "queued")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"runs": ["small-aaaaaaaaaa"]}, "there is no run small-aaaaaaaaaa here"),
        ({"runs": ["../../etc/passwd"]}, "pattern"),
        ({"runs": []}, "at least 1"),
        ({"runs": [f"small-{n:010x}" for n in range(9)]}, "at most 8"),
        ({"runs": ["small-aaaaaaaaaa"] * 2}, "named twice"),
        ({"runs": ["small-aaaaaaaaaa"], "on": "file:///etc/passwd"}, "on"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused_and_leaves_nothing(
    web: TestClient, submitter: Headers, client: redis.Redis, settings: Settings,
    asked: dict[str, Any], told: str,
) -> None:  # fmt: skip
    answer = web.post("/v1/jobs", json={"compare": asked}, headers=submitter)

    assert answer.status_code == 422
    assert told in answer.text
    assert client.zcard("finstill:jobs") == 0
    assert not list(settings.runs.glob("compare-*"))


def test_a_request_is_for_a_run_or_for_a_comparison(
    web: TestClient, submitter: Headers, run_id: str
) -> None:
    compare = {"runs": [run_id]}
    for body in (
        {"config": "demo", "compare": compare},
        {"compare": compare, "until": "label"},
        {"compare": compare, "overrides": {"seed": 3}},
    ):
        assert web.post("/v1/jobs", json=body, headers=submitter).status_code == 422, body


def test_a_run_that_is_not_judged_fails_the_comparison_with_a_reason_and_it_can_be_resumed(
    web: TestClient, submitter: Headers, work: Callable[[str], bool], settings: Settings,
    run_id: str,
) -> None:  # fmt: skip
    judged = RunDirectory(settings.runs / run_id).evaluation("student")
    kept = judged.read_bytes()
    judged.unlink()
    job_id = ask(web, submitter, run_id).json()["id"]
    work(job_id)

    job = web.get(f"/v1/jobs/{job_id}", headers=submitter).json()
    assert job["state"] == "failed"
    assert "system 'student' is not evaluated yet" in job["fault"]["message"]

    judged.write_bytes(kept)
    assert web.post(f"/v1/jobs/{job_id}/resume", headers=submitter).status_code == 202
    work(job_id)
    assert web.get(f"/v1/jobs/{job_id}", headers=submitter).json()["state"] == "done"


def test_jobs_can_be_listed_by_their_being_comparisons(
    web: TestClient, submitter: Headers, run_id: str
) -> None:
    web.post("/v1/jobs", json={"config": "demo"}, headers=submitter)
    job_id = ask(web, submitter, run_id).json()["id"]

    page = web.get("/v1/jobs?until=compare", headers=submitter).json()

    assert [item["id"] for item in page["items"]] == [job_id]
    runs = web.get("/v1/runs", headers=submitter).json()["items"]
    assert job_id not in [item["id"] for item in runs]


def test_on_the_page_runs_are_ticked_and_the_report_is_found_again(
    web: TestClient, login: Callable[..., str], work: Callable[[str], bool], run_id: str
) -> None:
    form = {"csrf": login(), f"run:{run_id}": "on"}

    sent = web.post("/compare", data=form, headers=PAGE, follow_redirects=False)
    job_id = sent.headers["location"].removeprefix("/jobs/")
    work(job_id)
    again = web.post("/compare", data=form, headers=PAGE)

    assert (sent.status_code, again.status_code) == (303, 200)
    assert again.headers["content-security-policy"].startswith("sandbox")
    assert "Majority class" in again.text
    assert f"/runs/{job_id}/report" in web.get("/compare", headers=PAGE).text
    page = web.get(f"/jobs/{job_id}", headers=PAGE).text
    assert f"/runs/{job_id}/report" in page
    assert f'<a href="/runs/{run_id}">' in page


def test_the_page_tells_what_is_wrong_with_a_choice(
    web: TestClient, login: Callable[..., str], run_id: str
) -> None:
    secret = login()
    nothing = web.post("/compare", data={"csrf": secret}, headers=PAGE)
    odd = web.post("/compare", data={"csrf": secret, "run:../x": "on"}, headers=PAGE)

    assert (nothing.status_code, odd.status_code) == (422, 422)
    assert "No runs are chosen; tick 1 to 8" in nothing.text
    many = web.post("/compare", headers=PAGE, data={
        "csrf": secret, **{f"run:small-{n:010x}": "on" for n in range(100)}})  # fmt: skip
    assert "100 runs are chosen; tick 1 to 8" in many.text
    assert "These runs cannot be compared" in odd.text


def test_a_reader_sees_comparisons_and_cannot_ask_for_one(
    web: TestClient, login: Callable[..., str], reader: Headers, run_id: str
) -> None:
    assert ask(web, reader, run_id).status_code == 403
    secret = login("read")

    page = web.get("/compare", headers=PAGE).text
    refused = web.post("/compare", data={"csrf": secret, f"run:{run_id}": "on"}, headers=PAGE)

    assert "needs the scope" in page
    assert refused.status_code == 403
