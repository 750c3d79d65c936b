"""The dashboard: who gets in, what forms can do, and that no text becomes markup."""

import re
from collections.abc import Callable
from html import escape

import pytest
import redis
from starlette.testclient import TestClient

from common.data.store import read_records, write_records
from common.records import Answer, Example, Reason, Unanswered
from workers.graph import fingerprint
from workers.job_records import Fault, StageRecord, State
from workers.jobs import Jobs
from workers.run_directory import open_run
from workers.services import Settings
from workers.tokens import Tokens

Headers = dict[str, str]
PAGE = {"Accept": "text/html"}
EVIL = "<script>alert('x')</script>"


def test_without_a_session_every_page_leads_to_the_login(web: TestClient) -> None:
    for path in ("/jobs", "/runs", "/compare", "/try", "/labels", "/system",
                 "/jobs/a-0123456789", "/runs/a-0123456789", "/labels/a-0123456789"):  # fmt: skip
        answer = web.get(path, headers=PAGE, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/login?next={path}")


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(
    web: TestClient, bearer: Callable[..., Headers], client: redis.Redis
) -> None:
    token = bearer("read")["Authorization"].removeprefix("Bearer ")

    answer = web.post("/login", data={"token": token}, follow_redirects=False)

    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    session = cookie.split("=", 1)[1].split(";")[0]
    assert not [key for key in client.scan_iter("finstill:session:*") if session in key.decode()]


@pytest.mark.parametrize(
    "wanted", ["//evil.example", "https://evil.example", "/\\evil", "x", "/a\nb"]
)
def test_the_login_leads_nowhere_else(
    web: TestClient, bearer: Callable[..., Headers], wanted: str
) -> None:
    token = bearer("read")["Authorization"].removeprefix("Bearer ")

    answer = web.post("/login", data={"token": token, "next": wanted}, follow_redirects=False)

    assert answer.headers["location"] == "/jobs"


def test_a_wrong_token_is_told_and_guessing_slowed(web: TestClient) -> None:
    codes = [web.post("/login", data={"token": "x"}, headers=PAGE).status_code for _ in range(30)]

    assert codes[0] == 401
    assert codes[-1] == 429


def test_a_form_of_another_site_changes_nothing(
    web: TestClient, login: Callable[..., str], client: redis.Redis
) -> None:
    secret = login()
    form = {"config": "demo", "until": "report"}

    missing = web.post("/jobs", data=form, headers=PAGE)
    wrong = web.post("/jobs", data={**form, "csrf": "x" * 32}, headers=PAGE)
    crossed = web.post("/jobs", data={**form, "csrf": secret},
                       headers={**PAGE, "Sec-Fetch-Site": "cross-site"})  # fmt: skip

    assert [a.status_code for a in (missing, wrong, crossed)] == [403, 403, 403]
    assert client.zcard("finstill:jobs") == 0
    assert web.post("/login", data={"token": "x"}, headers={"Sec-Fetch-Site": "cross-site"}
                    ).status_code == 403  # fmt: skip


def test_the_cookie_alone_changes_nothing_through_the_api(
    web: TestClient, login: Callable[..., str], client: redis.Redis
) -> None:
    login()

    assert web.get("/v1/jobs").status_code == 200
    assert web.post("/v1/jobs", json={"config": "demo"}).status_code == 401
    assert client.zcard("finstill:jobs") == 0


def test_a_job_is_submitted_stopped_and_resumed(
    web: TestClient, login: Callable[..., str], client: redis.Redis
) -> None:
    form = {"csrf": login(), "config": "demo", "until": "label", "seed": "5"}

    page = web.post("/jobs", data=form, headers=PAGE)
    job = page.url.path.removeprefix("/jobs/")
    web.post(f"/jobs/{job}/cancel", data=form, headers=PAGE)
    assert Jobs(client).is_cancelled(job)
    Jobs(client).end(job, State.CANCELLED)
    again = web.post(f"/jobs/{job}/resume", data=form, headers=PAGE)

    assert again.status_code == 200
    assert not Jobs(client).is_cancelled(job)


def test_an_administrator_gives_a_paused_job_more_money_on_its_page(
    web: TestClient, login: Callable[..., str], bearer: Callable[..., Headers], client: redis.Redis
) -> None:
    body = {"config": "demo", "overrides": {"labelling.max_usd": 2}}
    job = web.post("/v1/jobs", json=body, headers=bearer("submit")).json()["id"]
    Jobs(client).end(job, State.PAUSED)
    form = {"csrf": login("submit"), "max_usd": "20"}
    assert 'name="max_usd"' not in web.get(f"/jobs/{job}", headers=PAGE).text
    assert web.post(f"/jobs/{job}/resume", data=form, headers=PAGE).status_code == 403

    form["csrf"] = login("admin")
    assert 'name="max_usd"' in web.get(f"/jobs/{job}", headers=PAGE).text
    for wrong in ("much", "nan", "-3", "1e9"):
        sent = web.post(f"/jobs/{job}/resume", data={**form, "max_usd": wrong}, headers=PAGE)
        assert sent.status_code == 422
    page = web.post(f"/jobs/{job}/resume", data=form, headers=PAGE)

    assert page.status_code == 200
    assert "Spent of $20.00" in page.text


def test_a_mistake_in_a_form_is_one_sentence(web: TestClient, login: Callable[..., str]) -> None:
    form = {"csrf": login(), "config": "demo", "seed": "many"}

    page = web.post("/jobs", data=form, headers=PAGE)

    assert page.status_code == 422
    assert "number is not as expected" in page.text


def test_a_reader_is_offered_nothing_to_change(
    web: TestClient, login: Callable[..., str], client: redis.Redis
) -> None:
    secret = login("read")

    assert "New job" not in web.get("/jobs", headers=PAGE).text
    answer = web.post("/jobs", data={"csrf": secret, "config": "demo"}, headers=PAGE)
    assert answer.status_code == 403


def test_a_revoked_token_ends_its_sessions(
    web: TestClient, login: Callable[..., str], client: redis.Redis
) -> None:
    login()
    for token in Tokens(client).all():
        Tokens(client).revoke(token.id)

    assert web.get("/jobs", headers=PAGE, follow_redirects=False).status_code == 303


def test_logging_out_ends_the_session(web: TestClient, login: Callable[..., str]) -> None:
    secret = login()
    cookie = web.cookies["finstill_session"]

    web.post("/logout", data={"csrf": secret}, headers=PAGE)
    web.cookies.set("finstill_session", cookie)

    assert web.get("/jobs", headers=PAGE, follow_redirects=False).status_code == 303


def test_html_in_a_text_is_text_on_every_page(
    web: TestClient, login: Callable[..., str], client: redis.Redis, run_id: str
) -> None:
    secret = login()
    web.post("/jobs", data={"csrf": secret, "config": "demo"}, headers=PAGE)
    job = Jobs(client).all()[0].id
    Jobs(client).end(job, State.FAILED, Fault(kind="InputError", message=EVIL))
    text = f"Plant 1 is in Ghent {EVIL}."
    form = {"csrf": secret, "system": f"{run_id}/student", "text": text, "rationale": "on"}
    label = {"csrf": secret, "text": text, "act": "correct", "label": "neutral", "note": EVIL}
    web.post(f"/labels/{run_id}", data=label, headers=PAGE)

    pages = {path: web.get(path, headers=PAGE) for path in (
        "/jobs", f"/jobs/{job}", "/runs", f"/runs/{run_id}", f"/runs/{run_id}?against={EVIL}",
        "/compare", "/try", "/labels", f"/labels/{run_id}", f"/labels/{run_id}?words={EVIL}",
        "/system", f"/login?next={EVIL}", f"/nothing/{EVIL}")}  # fmt: skip
    pages["try"] = web.post("/try", data=form, headers=PAGE)

    for path, page in pages.items():
        assert page.status_code < 500, path
        assert EVIL not in page.text, path
        assert "'unsafe-inline'" not in page.headers["content-security-policy"], path
        assert not re.search(r"\son\w+=|style=|<script>|javascript:", page.text), path
    assert "&lt;script&gt;" in pages["try"].text
    assert "&lt;script&gt;" in pages[f"/jobs/{job}"].text


def test_pages_ask_nobody_else_for_anything(
    web: TestClient, login: Callable[..., str], run_id: str
) -> None:
    login()
    for path in ("/jobs", "/runs", f"/runs/{run_id}", "/try", "/labels", "/system",
                 f"/labels/{run_id}", f"/runs/{run_id}/report"):  # fmt: skip
        text = web.get(path, headers=PAGE).text
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', text), path
    style = web.get("/static/app.css").text + web.get("/static/app.js").text
    assert "http://" not in style
    assert "https://" not in style


@pytest.mark.parametrize("name", ["..%2fpages.py", "app.css%00", "x", "%2e%2e/templates"])
def test_only_listed_files_are_served(web: TestClient, name: str) -> None:
    assert web.get(f"/static/{name}").status_code in (400, 404)


def test_try_it_shows_the_student_beside_the_teacher(
    web: TestClient, login: Callable[..., str], run_id: str
) -> None:
    secret = login("read")
    form = {"csrf": secret, "system": f"{run_id}/student", "text": "sales of unit 3 ROSE sharply"}

    page = web.post("/try", data=form, headers=PAGE).text

    assert "The student says" in page
    assert re.search(r'class="verdict">positive <span class="soft">claude', page)
    unknown = web.post("/try", data={**form, "text": "Never seen."}, headers=PAGE).text
    assert "not among those it was asked about" in unknown


def test_answers_are_filtered_corrected_and_taken_back(
    web: TestClient, login: Callable[..., str], run_id: str
) -> None:
    secret = login()
    path, text = f"/labels/{run_id}", "Unit 2 opens on Monday."
    form = {
        "csrf": secret,
        "text": text,
        "act": "correct",
        "label": "positive",
        "before": "neutral",
    }

    page = web.post(path, data=form, headers=PAGE).text
    only = web.get(f"{path}?only=corrected", headers=PAGE).text
    web.post(path, data={**form, "act": "withdraw"}, headers=PAGE)
    after = web.get(f"{path}?only=corrected", headers=PAGE).text

    assert "corrected to positive by test submit" in page
    assert only.count('<li class="card">') == 1
    assert text in only
    assert "No such row" in after
    odd = web.post(path, data={**form, "label": "splendid"}, headers=PAGE)
    assert odd.status_code == 422


def test_an_upload_through_the_page_needs_its_secret(
    web: TestClient, login: Callable[..., str]
) -> None:
    secret = login()
    body = b'{"text": "Sales rose."}\n'

    refused = web.post("/datasets?format=jsonl", content=body)
    taken = web.post("/datasets?format=jsonl", content=body, headers={"X-CSRF": secret})

    assert (refused.status_code, taken.status_code) == (403, 201)


def test_a_job_tells_why_rows_have_no_answer_with_examples(
    web: TestClient, login: Callable[..., str], client: redis.Redis, settings: Settings, run_id: str
) -> None:
    login("read")
    Jobs(client).submit(run_id, "report", [StageRecord(name="label", title="Ask")])
    run, config = open_run(settings.runs, run_id)
    first = next(read_records(run.part("to_label"), Example))
    answers = [
        Unanswered(example_id=first.id, teacher="t", reason=Reason.REFUSED, detail=f"no {EVIL}"),
        *(Unanswered(example_id=f"orphan-{i}", teacher="t", reason=Reason.EMPTY) for i in range(5)),
    ]
    folder = run.labels / "chunks" / fingerprint(config, "label")[:16]
    write_records(folder / "000777.parquet", answers, Answer)

    page = web.get(f"/jobs/{run_id}", headers=PAGE).text

    told = re.findall(r'<th scope="row">(empty|refused)</th><td class="number">(\d+)</td>', page)
    assert told == [("empty", "5"), ("refused", "1")]
    assert escape(first.text[:80]) in page
    assert EVIL not in page
    assert page.count("orphan-0") == page.count("orphan-2") == 1
    assert "orphan-3" not in page
