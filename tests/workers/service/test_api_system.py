"""Health, readiness, metrics, tokens, and what the API says of itself."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from teacher.budget import RedisPurse
from workers.corrections import Correction, Corrections
from workers.job_records import StageRecord, State
from workers.jobs import Jobs
from workers.services import Settings

Headers = dict[str, str]
ROOT = Path(__file__).resolve().parents[3]


def test_health_needs_nothing_and_readiness_says_what_is_missing(
    web: TestClient, client: redis.Redis
) -> None:
    assert web.get("/health").json()["status"] == "ok"
    assert web.get("/ready").status_code == 200

    client.delete("finstill:worker:host:1")
    answer = web.get("/ready")

    assert answer.status_code == 503
    assert answer.json()["checks"]["redis"] is True
    assert answer.json()["checks"]["queue_train"] is False


def exposed(web: TestClient, headers: Headers) -> dict[str, float]:
    lines = web.get("/metrics", headers=headers).text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in lines if not line.startswith("#")}  # fmt: skip


def test_metrics_count_what_the_jobs_counted(
    web: TestClient, reader: Headers, client: redis.Redis
) -> None:
    stage = StageRecord(name="s", title="S", state=State.DONE)
    Jobs(client).submit("a-0000000001", "report", [stage])
    counts = {"asked": 6, "failed": 2, "cached": 4, "usd": 0.5, "input_tokens": 70}
    Jobs(client).add_to_totals(counts)
    RedisPurse(client, "a-0000000001").settle("worker", 0.5, 0.0)

    told = exposed(web, reader)

    assert told['finstill_answers_total{source="teacher"}'] == 6
    assert told['finstill_answers_total{source="cache"}'] == 4
    assert told["finstill_unanswered_total"] == 2
    assert told["finstill_spend_usd_total"] == 0.5
    assert told['finstill_jobs{state="done"}'] == 1
    assert told['finstill_workers{queue="train"}'] == 1


def test_a_counter_does_not_fall_when_a_job_is_submitted_again_or_leaves_the_record(
    web: TestClient, reader: Headers, client: redis.Redis
) -> None:
    jobs, stage = Jobs(client), StageRecord(name="s", title="S")
    jobs.submit("a-0000000001", "report", [stage])
    jobs.add_to_totals({"asked": 5, "cached": 3})
    for number in range(501):
        jobs.submit(f"b-{number:010x}", "report", [stage])
    jobs.add_to_totals({"cached": 2})

    told = exposed(web, reader)

    assert told['finstill_answers_total{source="teacher"}'] == 5
    assert told['finstill_answers_total{source="cache"}'] == 5


def test_the_time_of_a_training_step_is_told_while_it_trains(
    web: TestClient, reader: Headers, client: redis.Redis
) -> None:
    info = {"loss": 0.5, "seconds": 0.25}
    stage = StageRecord(
        name="train:student", title="Train", state=State.RUNNING, unit="steps", info=info
    )
    Jobs(client).submit("a-0000000001", "train", [stage])
    name = 'finstill_training_step_seconds{job="a-0000000001",stage="train:student"}'
    assert exposed(web, reader)[name] == 0.25

    Jobs(client).update("a-0000000001", stage.model_copy(update={"state": State.DONE}))

    assert name not in exposed(web, reader)


def test_requests_are_counted_by_route_not_by_address(web: TestClient, reader: Headers) -> None:
    for number in range(5):
        web.get(f"/v1/jobs/a-000000000{number}", headers=reader)

    told = exposed(web, reader)

    label = 'method="GET",route="/v1/jobs/{job_id}",status="404"'
    assert told[f"finstill_http_request_seconds_count{{{label}}}"] == 5


def test_every_metric_the_dashboard_and_the_alerts_name_exists(
    web: TestClient, reader: Headers
) -> None:
    panels = (ROOT / "docs" / "grafana-dashboard.json").read_text()
    alerts = (ROOT / "docs" / "operations.md").read_text()
    named = set(re.findall(r"\bfinstill_\w+", panels + alerts))
    help_lines = re.findall(r"# TYPE (\w+) (\w+)", web.get("/metrics", headers=reader).text)
    known = {name for name, _ in help_lines}
    known |= {f"{n}{end}" for n, kind in help_lines if kind == "histogram"
              for end in ("_bucket", "_count", "_sum")}  # fmt: skip

    assert named <= known, named - known
    assert json.loads(panels)["uid"] == "finstill"


def test_tokens_are_made_listed_and_ended(web: TestClient, admin: Headers) -> None:
    made = web.post("/v1/tokens", json={"name": "ci", "scope": "read"}, headers=admin).json()
    own = {"Authorization": f"Bearer {made['token']}"}

    listed = web.get("/v1/tokens", headers=admin).json()["items"]
    before = web.get("/v1/jobs", headers=own).status_code
    ended = web.delete(f"/v1/tokens/{made['id']}", headers=admin).status_code
    after = web.get("/v1/jobs", headers=own).status_code

    assert made["id"] in {token["id"] for token in listed}
    assert all("token" not in token for token in listed)
    assert (before, ended, after) == (200, 204, 401)


def test_cache_and_teachers_are_told(web: TestClient, reader: Headers, client: redis.Redis) -> None:
    client.set(b"finstill:a:" + bytes(32), b"x")
    client.set("finstill:pace:vllm", json.dumps({"limit": 8.0, "throttled": 3, "members": {}}))

    cache = web.get("/v1/cache/stats", headers=reader).json()
    teachers = web.get("/v1/teachers", headers=reader).json()["items"]

    assert cache["answers"] == 1
    assert teachers == [{"name": "vllm", "state": {"limit": 8.0, "throttled": 3, "workers": 0}}]


def test_corrections_are_exported(web: TestClient, reader: Headers, settings: Settings) -> None:
    said = Correction(text="Sales rose.", label="positive", before=None, author="Ada", at=1.0,
                      kind="correct")  # fmt: skip
    Corrections(settings.runs / ".corrections").add("sentiment", said)

    answer = web.get("/v1/corrections/sentiment", headers=reader)

    assert json.loads(answer.text)["label"] == "positive"
    assert web.get("/v1/corrections/nothing", headers=reader).status_code == 404


def test_the_description_has_an_example_and_an_error_for_every_route(web: TestClient) -> None:
    schema = web.get("/openapi.json").json()
    faults = []
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            where = f"{method} {path}"
            if not route.get("description"):
                faults.append(f"{where}: no description")
            if path not in ("/health", "/ready") and "401" not in route["responses"]:
                faults.append(f"{where}: no 401")
            for parameter in route.get("parameters", []):
                if parameter["in"] == "path" and "examples" not in str(parameter):
                    faults.append(f"{where}: {parameter['name']} has no example")
            body: Any = route.get("requestBody", {}).get("content", {})
            for media in body.values():
                name = media["schema"].get("$ref", "").rpartition("/")[2]
                if "example" not in str(media) and "examples" not in str(
                    schema["components"]["schemas"].get(name, "")
                ):
                    faults.append(f"{where}: its body has no example")

    assert faults == []
    assert all(route.get("security") for path, methods in schema["paths"].items()
               for route in methods.values() if path not in ("/health", "/ready"))  # fmt: skip


def test_the_api_does_as_it_says(web: TestClient, admin: Headers, run_id: str) -> None:
    """Schemathesis against every route: no 5xx, only statuses and bodies that are described."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

    # A config may be unknown although its name has the form; and guessing tokens ends in 429.
    left_out = [positive_data_acceptance, ignored_auth]

    schema = schemathesis.openapi.from_asgi("/openapi.json", web.app)
    schema = schema.exclude(path_regex="/events$").exclude(method="DELETE", path_regex="tokens")
    seen = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=6, deadline=None, database=None, derandomize=True,
                  phases=[Phase.explicit, Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.as_strategy())
        def probe(case: Any) -> None:
            nonlocal seen
            seen += 1
            answer = case.call(headers=admin)
            assert answer.status_code < 500 or answer.status_code == 503, answer.text
            if answer.status_code not in (405,):
                case.validate_response(answer, headers=admin, excluded_checks=left_out)

        probe()
    assert seen > 60
