"""Submitting, listing, watching and stopping jobs over HTTP."""

import json
import threading
import time
from hashlib import sha256
from typing import Any

import pytest
import redis
from fastapi import FastAPI
from starlette.testclient import TestClient

from teacher.budget import RedisPurse
from workers.api import jobs_desk
from workers.api.idempotency import once
from workers.job_records import StageRecord, State
from workers.jobs import Jobs
from workers.registry import announce, living_workers

Headers = dict[str, str]


def submit(web: TestClient, headers: Headers, **body: Any) -> Any:
    return web.post("/v1/jobs", json={"config": "demo", **body}, headers=headers)


def test_a_named_config_becomes_a_queued_job_with_its_overrides(
    web: TestClient, submitter: Headers, client: redis.Redis
) -> None:
    answer = submit(web, submitter, overrides={"seed": 7, "training.epochs": 2})

    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert job["state"] == "queued"
    assert client.llen("finstill:celery:label") == 1
    config = web.get(f"/v1/runs/{job['id']}", headers=submitter).json()["config"]
    assert (config["seed"], config["training"]["epochs"]) == (7, 2)


def test_until_stops_the_job_early(web: TestClient, submitter: Headers) -> None:
    job = submit(web, submitter, until="label").json()

    assert [stage["name"] for stage in job["stages"]][-1] == "collect"
    assert job["kind"] == "label"


def test_the_same_config_while_it_runs_is_the_same_job(
    web: TestClient, submitter: Headers, client: redis.Redis
) -> None:
    first = submit(web, submitter)

    second = submit(web, submitter)

    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["id"] == second.json()["id"]
    assert client.llen("finstill:celery:label") == 1


def test_another_end_for_a_running_job_is_a_conflict(web: TestClient, submitter: Headers) -> None:
    submit(web, submitter)

    assert submit(web, submitter, until="label").status_code == 409


def test_an_idempotency_key_answers_again_and_refuses_another_body(
    web: TestClient, submitter: Headers, client: redis.Redis
) -> None:
    keyed = {**submitter, "Idempotency-Key": "order-1"}
    first = submit(web, keyed)

    again = submit(web, keyed)
    other = submit(web, keyed, overrides={"seed": 99})

    assert again.json()["id"] == first.json()["id"]
    assert other.status_code == 422
    assert other.json()["type"] == "urn:finstill:problem:idempotency-key"
    assert client.zcard("finstill:jobs") == 1


def test_a_failed_submission_does_not_burn_its_idempotency_key(
    web: TestClient, submitter: Headers
) -> None:
    keyed = {**submitter, "Idempotency-Key": "order-2"}
    assert submit(web, keyed, config="demoo").status_code == 422

    assert submit(web, keyed).status_code == 202


def test_a_key_that_ends_while_it_is_looked_at_is_free_and_not_another_requests(
    client: redis.Redis,
) -> None:
    class Ending(redis.Redis):
        def get(self, name: Any) -> Any:
            found = super().get(name)
            self.delete(name)
            return None if found else found

    ending = Ending(connection_pool=client.connection_pool)
    body = {"config": "demo"}
    name = "finstill:idempotency:" + sha256(b"ann\0order-3").hexdigest()
    client.set(name, '{"body": "of a server that was killed"}')

    assert once(ending, "ann", "order-3", body, lambda: "demo-0123456789") == "demo-0123456789"
    assert once(client, "ann", "order-3", body, lambda: "never") == "demo-0123456789"


def test_nobody_listening_is_told_instead_of_queueing_for_ever(
    web: TestClient, submitter: Headers, client: redis.Redis
) -> None:
    client.delete("finstill:worker:host:1")

    answer = submit(web, submitter)

    assert answer.status_code == 503
    assert "no worker listens" in answer.json()["detail"]
    assert client.zcard("finstill:jobs") == 0


def test_a_job_is_taken_while_a_worker_restarts(
    web: TestClient, submitter: Headers, client: redis.Redis
) -> None:
    client.delete("finstill:worker:host:1")
    stop = threading.Event()
    beating = announce(client, ["label", "train", "evaluate"], stop)
    while not living_workers(client):
        time.sleep(0.01)
    stop.set()
    beating.join()
    assert living_workers(client) == []

    assert submit(web, submitter).status_code == 202
    assert 0 < client.pttl("finstill:heard:train") <= 60_000
    client.delete("finstill:heard:train")
    assert submit(web, submitter, overrides={"seed": 8}).status_code == 503


def put_jobs(client: redis.Redis, *names: str, state: State = State.QUEUED) -> None:
    for position, name in enumerate(names):
        Jobs(client).submit(name, "report", [StageRecord(name="s", title="S", state=state)])
        client.zadd("finstill:jobs", {name: 1000.0 + position})


def names_of(answer: Any) -> list[str]:
    return [job["id"] for job in answer.json()["items"]]


def test_pages_show_every_job_once_while_new_ones_arrive(
    web: TestClient, reader: Headers, client: redis.Redis
) -> None:
    names = [f"job-{i:010x}" for i in range(7)]
    put_jobs(client, *names)
    first = web.get("/v1/jobs?limit=3", headers=reader)

    put_jobs(client, "new-0000000000")
    client.zadd("finstill:jobs", {"new-0000000000": 9999.0})
    second = web.get("/v1/jobs", params={"limit": 3, "cursor": first.json()["next"]},
                     headers=reader)  # fmt: skip
    third = web.get("/v1/jobs", params={"limit": 3, "cursor": second.json()["next"]},
                    headers=reader)  # fmt: skip

    assert names_of(first) + names_of(second) + names_of(third) == names[::-1]
    assert third.json()["next"] is None


def test_jobs_of_one_instant_are_paged_without_loss(
    web: TestClient, reader: Headers, client: redis.Redis
) -> None:
    names = [f"job-{i:010x}" for i in range(5)]
    put_jobs(client, *names)
    client.zadd("finstill:jobs", dict.fromkeys(names, 500.0))

    seen, cursor = [], None
    while True:
        page = web.get("/v1/jobs", params={"limit": 2, **({"cursor": cursor} if cursor else {})},
                       headers=reader)  # fmt: skip
        seen += names_of(page)
        cursor = page.json()["next"]
        if cursor is None:
            break

    assert sorted(seen) == names


def test_filters_by_state_kind_and_name(
    web: TestClient, reader: Headers, client: redis.Redis
) -> None:
    put_jobs(client, "aaa-0000000001", "bbb-0000000002")
    put_jobs(client, "ccc-0000000003", state=State.DONE)

    assert names_of(web.get("/v1/jobs?state=done", headers=reader)) == ["ccc-0000000003"]
    assert names_of(web.get("/v1/jobs?name=bbb", headers=reader)) == ["bbb-0000000002"]
    assert names_of(web.get("/v1/jobs?until=label", headers=reader)) == []


@pytest.mark.parametrize("cursor", ["zzz", "bnVsbA", "W10", "WzEsIDJd", "W05hTiwgIngiXQ"])
def test_a_made_up_cursor_is_refused(web: TestClient, reader: Headers, cursor: str) -> None:
    assert web.get(f"/v1/jobs?cursor={cursor}", headers=reader).status_code == 422


def test_one_cancel_is_taken_and_the_second_told_so(
    web: TestClient, submitter: Headers, client: redis.Redis
) -> None:
    job = submit(web, submitter).json()

    first = web.post(f"/v1/jobs/{job['id']}/cancel", headers=submitter)
    second = web.post(f"/v1/jobs/{job['id']}/cancel", headers=submitter)

    assert (first.status_code, second.status_code) == (202, 409)
    assert Jobs(client).is_cancelled(job["id"])


def test_a_request_without_a_body_may_call_it_json(web: TestClient, submitter: Headers) -> None:
    job = submit(web, submitter).json()
    headers = {**submitter, "Content-Type": "application/json"}

    assert web.post(f"/v1/jobs/{job['id']}/cancel", headers=headers, content=b"").status_code == 202


def test_a_stopped_job_is_resumed_and_a_running_one_is_not(
    web: TestClient, submitter: Headers, client: redis.Redis
) -> None:
    job = submit(web, submitter).json()
    path = f"/v1/jobs/{job['id']}"
    assert web.post(f"{path}/resume", headers=submitter).status_code == 409
    Jobs(client).end(job["id"], State.FAILED)

    answer = web.post(f"{path}/resume", headers=submitter)

    assert answer.status_code == 202
    assert answer.json()["state"] == "queued"


@pytest.mark.parametrize("cure", ["submitted again", "resumed", "the server starts"])
def test_a_job_that_a_killed_server_recorded_and_never_sent_is_sent(
    app: FastAPI, web: TestClient, submitter: Headers, client: redis.Redis, cure: str
) -> None:
    job = submit(web, submitter).json()["id"]
    stages = [stage.model_copy(update={"state": State.WAITING})
              for stage in Jobs(client).get(job).stages]  # fmt: skip
    Jobs(client).submit(job, "report", stages)  # killed right behind this
    client.delete("finstill:celery:label")

    if cure == "submitted again":
        assert submit(web, submitter).json()["id"] == job
    elif cure == "resumed":
        assert web.post(f"/v1/jobs/{job}/resume", headers=submitter).status_code == 202
    else:
        assert jobs_desk.send_unsent(app.state.services) == 1
        assert jobs_desk.send_unsent(app.state.services) == 0

    assert client.llen("finstill:celery:label") == 1
    assert Jobs(client).get(job).stages[0].state is State.QUEUED


def test_only_an_administrator_gives_a_paused_job_more_money(
    web: TestClient, submitter: Headers, admin: Headers, client: redis.Redis
) -> None:
    job = submit(web, submitter, overrides={"labelling.max_usd": 2}).json()["id"]
    path = f"/v1/jobs/{job}/resume"
    Jobs(client).end(job, State.PAUSED)

    def resume(headers: Headers, max_usd: Any) -> int:
        return int(web.post(path, json={"max_usd": max_usd}, headers=headers).status_code)

    assert resume(submitter, 20) == 403
    assert [resume(admin, wrong) for wrong in (0, -1, "much", 1e9, True)] == [422] * 5
    assert RedisPurse(client, job, 2.0).max_usd == 2.0
    assert Jobs(client).get(job).state is State.PAUSED
    assert resume(admin, 20) == 202
    assert RedisPurse(client, job, 2.0).max_usd == 20.0


def test_a_job_without_a_budget_is_given_none(
    web: TestClient, admin: Headers, client: redis.Redis
) -> None:
    job = submit(web, admin).json()["id"]
    Jobs(client).end(job, State.FAILED)

    answer = web.post(f"/v1/jobs/{job}/resume", json={"max_usd": 5}, headers=admin)

    assert answer.status_code == 422
    assert "no budget" in answer.json()["detail"]


def test_events_tell_the_job_then_its_end(
    web: TestClient, reader: Headers, client: redis.Redis
) -> None:
    put_jobs(client, "job-0000000001", state=State.DONE)

    answer = web.get("/v1/jobs/job-0000000001/events", headers=reader)

    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [part for part in answer.text.split("\n\n") if part.startswith("event")]
    assert json.loads(events[0].split("data: ")[1])["state"] == "done"
    assert events[1].startswith("event: end")


def test_a_fault_is_told_without_the_servers_folders(
    web: TestClient, reader: Headers, client: redis.Redis, settings: Any
) -> None:
    from workers.job_records import Fault

    put_jobs(client, "job-0000000001")
    message = f"{settings.runs}/x is gone; key sk-planted-anthropic-key"
    Jobs(client).end("job-0000000001", State.FAILED, Fault(kind="InputError", message=message))

    fault = web.get("/v1/jobs/job-0000000001", headers=reader).json()["fault"]

    assert fault["message"] == "runs/x is gone; key ***"
