"""Hostile requests: each is refused with a clear 4xx, and nothing has changed afterwards."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from workers.services import Settings
from workers.tokens import Tokens, token_id_of

Headers = dict[str, str]
UPLOAD = "upload:" + "0" * 64
Tree = dict[str, Any]
BOOKKEEPING = (b"finstill:rate:", b"finstill:token", b"finstill:worker")


@pytest.fixture
def unchanged(client: redis.Redis, settings: Settings) -> Iterator[None]:
    """No job, no key but the rate limiter's, and no file comes of the test's requests."""
    yield
    keys = [key for key in client.scan_iter() if not key.startswith(BOOKKEEPING)]
    assert keys == []
    assert not settings.runs.exists() or list(settings.runs.rglob("*.json")) == []


def refused(answer: Any, *statuses: int) -> None:
    assert answer.status_code in (statuses or (400, 404, 422)), answer.text
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "instance"} <= body.keys()
    assert "Traceback" not in answer.text
    assert "/site-packages/" not in answer.text


TRAVERSALS = [
    "../../etc/passwd",
    "..",
    "/etc/passwd",
    "demo/../../secret",
    "%2e%2e%2fetc",
    "demo\x00.yaml",
    "file:///etc/passwd",
    "http://169.254.169.254/latest",
    "~root",
    "prices",
    "tasks/sentiment",
    "C:\\windows",
]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", TRAVERSALS)
def test_a_config_name_is_never_a_path(web: TestClient, submitter: Headers, name: str) -> None:
    refused(web.post("/v1/jobs", json={"config": name}, headers=submitter))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", TRAVERSALS[:8])
def test_an_id_is_never_a_path(web: TestClient, submitter: Headers, name: str) -> None:
    from urllib.parse import quote

    word = quote(name, safe="")
    for path in (f"/v1/jobs/{word}", f"/v1/runs/{word}", f"/v1/runs/{word}/report",
                 f"/v1/datasets/{word}", f"/v1/runs/a-0123456789/systems/{word}/model",
                 f"/v1/runs/a-0123456789/systems/{word}/predictions"):  # fmt: skip
        refused(web.get(path, headers=submitter))


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths_in(item, (*path, key))
    elif isinstance(value, str):
        yield path


def replaced(tree: Tree, path: tuple[Any, ...], value: Any) -> Tree:
    copy: Tree = json.loads(json.dumps(tree))
    node = copy
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return copy


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("word", ["../../etc/passwd", "/etc/passwd", "http://169.254.169.254/"])
def test_no_string_of_an_inline_config_may_be_a_path(
    web: TestClient, submitter: Headers, inline: Callable[..., Tree], word: str
) -> None:
    tree = inline(UPLOAD, UPLOAD)
    optional: dict[tuple[Any, ...], Any] = {
        ("data", "test_path"): word,
        ("data", "encoding"): word,
        ("teacher", "prompt"): word,
        ("student", "tokenizer"): word,
        ("student", "prompt"): word,
        ("student", "revision"): word,
    }
    trees = [replaced(tree, path, word) for path in paths_in(tree)]
    trees += [replaced(tree, path, value) for path, value in optional.items()]

    assert len(trees) > 12
    for changed in trees:
        refused(web.post("/v1/jobs", json={"inline": changed}, headers=submitter), 422)


REACHING: dict[str, tuple[tuple[str, ...], Any]] = {
    "a teacher's address": (("teacher", "base_url"), "http://169.254.169.254/"),
    "a hub data set": (("data",), {"kind": "hub", "repository": "evil/data"}),
    "a hub data set by address": (("data",), {"kind": "hub", "repository": "http://evil/x"}),
    "a release folder": (("data",), {"kind": "fpb", "path": "/etc"}),
    "a download": (("data",), {"kind": "fpb"}),
    "a hub model": (("student", "model"), "evil/model-with-code"),
    "remote code": (("student", "trust_remote_code"), True),
    "a tracker": (("training", "report_to"), ["wandb"]),
    "an offline engine": (
        ("teacher",), {"kind": "vllm", "model": "evil/model", "engine": "offline"}
    ),
    "a paid teacher without a budget": (("teacher",), {"kind": "claude", "model": "claude-x"}),
    "an unknown task": (("task",), "../sentiment"),
    "a name with a slash": (("name",), "a/b"),
    "code in yaml": (("name",), "!!python/object/apply:os.system ['id']"),
    "a huge model": (("student", "tiny", "hidden"), 10**6),
    "a huge resampling": (("evaluation", "bootstrap"), 10**9),
    "a number beyond 64 bits": (("seed",), 10**30),
    "endless epochs": (("training", "epochs"), 1e300),
    "a control character": (("description",), "a\u0007b"),
    "a long string": (("description",), "x" * 20_000),
    "many baselines": (("baselines",), {f"b{i}": {"kind": "majority"} for i in range(40)}),
}  # fmt: skip


@pytest.mark.parametrize("case", REACHING)
def test_an_inline_config_reaches_nothing_outside(
    web: TestClient,
    submitter: Headers,
    client: redis.Redis,
    inline: Callable[..., Tree],
    uploads: list[str],
    case: str,
) -> None:
    path, value = REACHING[case]
    fine = inline(*uploads)
    changed = replaced(fine, path, value)

    refused(web.post("/v1/jobs", json={"inline": changed}, headers=submitter), 422)

    assert client.zcard("finstill:jobs") == 0
    assert web.post("/v1/jobs", json={"inline": fine}, headers=submitter).status_code == 202


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "overrides",
    [
        {"data.path": 1},
        {"teacher.answers": 1},
        {"student.model": 1},
        {"training.epochs": 1e9},
        {"training.epochs": -1},
        {"training.epochs": "9"},
        {"seed": 10**40},
        {"seed": [1]},
        {"evaluation.bootstrap": 10**12},
        {"__class__": 1},
        {"training.epochs=1 student.model": 2},
        {f"k{i}": 1 for i in range(100)},
    ],
)
def test_only_listed_numbers_can_be_overridden(
    web: TestClient, submitter: Headers, overrides: Tree
) -> None:
    refused(
        web.post("/v1/jobs", json={"config": "demo", "overrides": overrides}, headers=submitter)
    )


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000, 400),
        (b'{"config":' + b'{"a":' * 100_000, 400),
        (b'{"config": "demo", "overrides": {"seed": NaN}}', 400),
        (b'{"config": "demo", "overrides": {"seed": Infinity}}', 400),
        (b'{"config": "demo", "overrides": {"training.epochs": 1e400}}', 422),
        (b'{"config": "demo\\ud800"}', 400),
        (b'{"config": "demo\xff"}', 400),
        (b'{"config": "demo", "extra": 1}', 422),
        (b"{}", 422),
        (b"", 422),
        (b"null", 422),
        (b'"demo"', 422),
        (b'{"config": "demo", "inline": {}}', 422),
        (b"x" * ((1 << 20) + 1), 413),
    ],
)
def test_broken_and_boundless_json(
    web: TestClient, submitter: Headers, body: bytes, status: int
) -> None:
    typed = {**submitter, "Content-Type": "application/json"}

    refused(web.post("/v1/jobs", content=body, headers=typed), status)


@pytest.mark.usefixtures("unchanged")
def test_a_gigabyte_of_json_is_refused_by_its_declaration_and_by_its_first_megabyte(
    web: TestClient, submitter: Headers
) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1 << 26:  # the caller of these tests sends all of it, whatever the answer
            sent += 1 << 20
            yield b" " * (1 << 20)

    typed = {**submitter, "Content-Type": "application/json"}
    declared = {**typed, "Content-Length": str(1 << 30)}

    refused(web.post("/v1/jobs", content=b"{}", headers=declared), 413)
    refused(web.post("/v1/jobs", content=endless(), headers=typed), 413)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "text/xml"])
def test_a_body_of_another_type_is_not_read_as_json(
    web: TestClient, submitter: Headers, kind: str
) -> None:
    body, typed = b'{"config": "demo"}', {**submitter, "Content-Type": kind}

    refused(web.post("/v1/jobs", content=body, headers=typed), 415, 422)


WRONG = [
    {},
    {"Authorization": "Bearer "},
    {"Authorization": "Bearer fst_00000000_" + "A" * 43},
    {"Authorization": "Bearer " + "A" * 5000},
    {"Authorization": "Basic YWRtaW46YWRtaW4="},
    {"Authorization": "Bearer fst_*_" + "A" * 43},
    {"Cookie": "finstill_session=" + "A" * 43},
    {"Authorization": "bearer null"},
]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("headers", WRONG)
def test_without_a_valid_token_nothing_is_told(web: TestClient, headers: Headers) -> None:
    for path in ("/v1/jobs", "/v1/runs", "/v1/datasets", "/metrics", "/v1/cache/stats",
                 "/v1/tokens", "/v1/teachers", "/v1/configs"):  # fmt: skip
        answer = web.get(path, headers=headers)
        refused(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    refused(web.post("/v1/jobs", json={"config": "demo"}, headers=headers), 401, 429)


@pytest.mark.usefixtures("unchanged")
def test_a_token_in_the_address_is_no_token(web: TestClient, reader: Headers) -> None:
    text = reader["Authorization"].removeprefix("Bearer ")

    refused(web.get(f"/v1/jobs?token={text}&access_token={text}"), 401)


@pytest.mark.usefixtures("unchanged")
def test_a_scope_does_not_stretch(web: TestClient, reader: Headers, submitter: Headers) -> None:
    body = {"config": "demo"}
    refused(web.post("/v1/jobs", json=body, headers=reader), 403)
    refused(web.post("/v1/jobs/demo-0123456789/cancel", headers=reader), 403)
    refused(web.post("/v1/datasets?format=jsonl", content=b"{}", headers=reader), 403)
    refused(web.get("/v1/tokens", headers=submitter), 403)
    made = {"name": "mine", "scope": "admin"}
    refused(web.post("/v1/tokens", json=made, headers=submitter), 403)
    refused(web.delete("/v1/tokens/00000000", headers=submitter), 403)


def test_guessing_tokens_is_slowed_down(web: TestClient) -> None:
    wrong = {"Authorization": "Bearer fst_00000000_" + "A" * 43}

    seen = [web.get("/v1/jobs", headers=wrong).status_code for _ in range(40)]

    assert seen[0] == 401
    assert 429 in seen


def test_a_token_beyond_its_rate_waits(
    web: TestClient, bearer: Callable[..., Headers], reader: Headers
) -> None:
    slow = bearer("read", requests_per_minute=60)

    answers = [web.get("/v1/jobs", headers=slow) for _ in range(10)]

    late = [answer for answer in answers if answer.status_code == 429]
    assert 5 <= len(late) <= 8
    assert int(late[0].headers["retry-after"]) >= 1
    assert web.get("/v1/jobs", headers=reader).status_code == 200


@pytest.mark.usefixtures("unchanged")
def test_another_host_name_is_refused(settings: Settings, reader: Headers) -> None:
    from workers.api.app import create_app
    from workers.api.state import Options

    app = create_app(settings, Options(hosts=frozenset({"finstill.example"})))
    with TestClient(app, base_url="http://evil.example") as other:
        refused(other.get("/v1/jobs", headers=reader), 400)
        given = {**reader, "Host": "finstill.example:8230"}
        assert other.get("/v1/jobs", headers=given).status_code == 200


def test_a_request_id_cannot_carry_anything_else(web: TestClient) -> None:
    fine = web.get("/health", headers={"X-Request-Id": "abc-12345678"})
    odd = web.get("/health", headers={"X-Request-Id": "<script>alert(1)</script>"})

    assert fine.headers["x-request-id"] == "abc-12345678"
    assert "<" not in odd.headers["x-request-id"]


def test_a_hundred_cancels_at_once_are_one(
    web: TestClient, submitter: Headers, client: redis.Redis
) -> None:
    job = web.post("/v1/jobs", json={"config": "demo"}, headers=submitter).json()["id"]

    with ThreadPoolExecutor(8) as pool:
        codes = list(
            pool.map(
                lambda _: web.post(f"/v1/jobs/{job}/cancel", headers=submitter).status_code,
                range(100),
            )
        )

    assert sorted(codes) == [202] + [409] * 99


def test_twenty_equal_submissions_at_once_are_one_job(
    web: TestClient, submitter: Headers, client: redis.Redis
) -> None:
    with ThreadPoolExecutor(8) as pool:
        codes = list(
            pool.map(
                lambda _: web.post("/v1/jobs", json={"config": "demo"}, headers=submitter),
                range(20),
            )
        )

    assert sorted(answer.status_code for answer in codes) == [200] * 19 + [202]
    assert client.llen("finstill:celery:label") == 1


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("key", ["a b", "", "x" * 300, "ü"])
def test_an_odd_idempotency_key_is_refused(web: TestClient, submitter: Headers, key: str) -> None:
    keyed = [(name.encode(), value.encode()) for name, value in submitter.items()]
    keyed.append((b"Idempotency-Key", key.encode()))

    refused(web.post("/v1/jobs", json={"config": "demo"}, headers=keyed), 422)


def test_texts_have_bounds(web: TestClient, reader: Headers, run_id: str) -> None:
    path = f"/v1/runs/{run_id}/predict"
    for texts in ([], [""], ["x" * 20_001], ["x"] * 257, ["a\x00b"], ["\x1b[2J"], [1], "x"):
        refused(web.post(path, json={"texts": texts}, headers=reader), 422)


def test_a_token_that_was_just_used_ends_with_its_revocation(
    web: TestClient, client: redis.Redis, reader: Headers
) -> None:
    text = reader["Authorization"].removeprefix("Bearer ")
    assert [web.get("/v1/jobs", headers=reader).status_code for _ in range(3)] == [200] * 3

    Tokens(client).revoke(token_id_of(text))

    assert web.get("/v1/jobs", headers=reader).status_code == 401


def test_a_wrong_secret_under_a_known_id_is_refused_and_costs_its_owner_nothing(
    web: TestClient, bearer: Callable[..., Headers]
) -> None:
    owner = bearer("read", requests_per_minute=60)
    text = owner["Authorization"]
    assert web.get("/v1/jobs", headers=owner).status_code == 200
    wrong = {"Authorization": text[:-4] + "AAAA"}

    assert [web.get("/v1/jobs", headers=wrong).status_code for _ in range(5)] == [401] * 5

    assert web.get("/v1/jobs", headers=owner).status_code == 200


def test_a_planted_key_is_found_nowhere(
    web: TestClient,
    admin: Headers,
    client: redis.Redis,
    settings: Settings,
    run_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    key = settings.anthropic_api_key or ""
    token = admin["Authorization"].removeprefix("Bearer ")
    web.post("/v1/jobs", json={"config": "demo"}, headers=admin)
    told = [web.get(path, headers=admin).text for path in (
        "/v1/jobs", "/v1/runs", f"/v1/runs/{run_id}", "/v1/teachers", "/v1/cache/stats",
        "/metrics", "/openapi.json", f"/v1/runs/{run_id}/report", "/v1/tokens")]  # fmt: skip
    told.append(web.post("/v1/jobs", json={"config": key}, headers=admin).text)
    stored = [client.dump(name) for name in client.scan_iter()]
    files = [p.read_bytes() for p in settings.runs.rglob("*") if p.is_file()]

    assert not [text for text in told[:-1] if key in text or token in text]
    assert not [value for value in stored if key.encode() in (value or b"")]
    assert not [value for value in stored if token[13:].encode() in (value or b"")]
    assert not [content for content in files if key.encode() in content]
    assert key not in caplog.text
    assert token not in caplog.text


def test_every_answer_has_the_security_headers(web: TestClient, reader: Headers) -> None:
    for path in ("/health", "/v1/jobs", "/v1/nothing", "/openapi.json"):
        headers = web.get(path, headers=reader).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


def test_the_interactive_pages_that_load_from_elsewhere_are_off(web: TestClient) -> None:
    assert web.get("/docs").status_code == 404
    assert web.get("/redoc").status_code == 404
