"""Runs, their artefacts and their students over HTTP."""

import csv
import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from common.records import Prediction
from workers.api.exports import csv_rows

Headers = dict[str, str]


def test_a_run_is_listed_and_told_in_full(web: TestClient, reader: Headers, run_id: str) -> None:
    listed = web.get("/v1/runs", headers=reader).json()["items"]
    told = web.get(f"/v1/runs/{run_id}", headers=reader).json()

    assert [run["id"] for run in listed] == [run_id]
    assert listed[0]["trained"] == ["student"]
    assert set(listed[0]["accuracy"]) == {"student", "majority"}
    assert told["trainings"]["student"]["steps"] == 3
    assert told["labelling"]["kept"] == 36


def test_runs_are_paged(web: TestClient, reader: Headers, run_id: str, settings: object) -> None:
    page = web.get("/v1/runs?limit=1", headers=reader).json()

    assert page["next"] is None


def test_a_report_is_shown_in_a_sandbox_without_an_origin(
    web: TestClient, reader: Headers, run_id: str
) -> None:
    page = web.get(f"/v1/runs/{run_id}/report", headers=reader)
    data = web.get(f"/v1/runs/{run_id}/report?format=json", headers=reader)
    text = web.get(f"/v1/runs/{run_id}/report?format=md", headers=reader)

    policy = page.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in policy
    assert data.json()["n"] == 36
    assert text.text.startswith("# ")


def test_the_report_tells_how_many_tokens_a_student_has_seen(
    web: TestClient, reader: Headers, run_id: str
) -> None:
    told = web.get(f"/v1/runs/{run_id}", headers=reader).json()
    data = web.get(f"/v1/runs/{run_id}/report?format=json", headers=reader).json()
    text = web.get(f"/v1/runs/{run_id}/report?format=md", headers=reader).text

    seen = {system["system"]["name"]: system["system"]["tokens_seen"] for system in data["systems"]}
    assert seen == {"student": told["trainings"]["student"]["tokens_seen"], "majority": None}
    assert seen["student"] > 0
    assert "| Tokens seen |" in text


def test_a_text_gets_label_probabilities_and_reason(
    web: TestClient, reader: Headers, run_id: str
) -> None:
    body = {"texts": ["Sales rose.", "Sales fell."], "rationales": True}

    answer = web.post(f"/v1/runs/{run_id}/predict", json=body, headers=reader).json()

    assert len(answer["predictions"]) == 2
    for row in answer["predictions"]:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
        assert isinstance(row["rationale"], str)


def test_requests_at_once_get_their_own_answers(
    web: TestClient, reader: Headers, run_id: str
) -> None:
    texts = [f"Sales of unit {i} moved by {i * i} percent." for i in range(40)]

    def ask(batch: list[str]) -> list[float]:
        answer = web.post(f"/v1/runs/{run_id}/predict", json={"texts": batch}, headers=reader)
        return [row["probabilities"]["neutral"] for row in answer.json()["predictions"]]

    with ThreadPoolExecutor(8) as pool:
        together = [p for part in pool.map(ask, [texts[i : i + 3] for i in range(0, 40, 3)])
                    for p in part]  # fmt: skip
    alone = [ask([text])[0] for text in texts]

    assert together == pytest.approx(alone, abs=1e-4)


def test_what_was_not_trained_or_judged_is_404(
    web: TestClient, reader: Headers, run_id: str
) -> None:
    body = {"texts": ["x"]}
    paths = {
        f"/v1/runs/{run_id}/systems/nobody/predictions",
        f"/v1/runs/{run_id}/systems/majority/model",
        "/v1/runs/absent-0123456789",
        "/v1/runs/absent-0123456789/report",
    }

    assert {web.get(path, headers=reader).status_code for path in paths} == {404}
    wanted = {**body, "system": "majority"}
    assert web.post(f"/v1/runs/{run_id}/predict", json=wanted, headers=reader).status_code == 404


def test_predictions_come_as_jsonl_and_csv(web: TestClient, reader: Headers, run_id: str) -> None:
    path = f"/v1/runs/{run_id}/systems/student/predictions"

    lines = web.get(path, headers=reader).text.splitlines()
    table = list(csv.DictReader(io.StringIO(web.get(f"{path}?format=csv", headers=reader).text)))

    assert len(lines) == len(table) == 36
    assert [json.loads(line)["label"] for line in lines] == [row["label"] for row in table]
    assert float(table[0]["p_neutral"]) == json.loads(lines[0])["probabilities"]["neutral"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "|"])
def test_no_exported_cell_is_a_formula(start: str) -> None:
    told = f"{start}HYPERLINK('http://x')"
    row = Prediction(example_id=told, label="neutral", probabilities={"neutral": -0.5},
                     rationale=told)  # fmt: skip

    _, cells = list(csv.reader(io.StringIO("".join(csv_rows([row], ["neutral"])))))

    assert cells == [f"'{told}", "neutral", "-0.5", f"'{told}"]


def test_the_model_archive_holds_safetensors_and_no_pickle(
    web: TestClient, reader: Headers, run_id: str, settings: object
) -> None:
    answer = web.get(f"/v1/runs/{run_id}/systems/student/model", headers=reader)

    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        names = tar.getnames()
        weights = next(name for name in names if name.endswith(".safetensors"))
        member = tar.extractfile(weights)
        assert member is not None
        packed = member.read()

    folder = settings.runs / run_id / "systems" / "student" / "model"  # type: ignore[attr-defined]
    assert packed == (folder / Path(weights).name).read_bytes()
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


def test_a_student_trained_again_is_loaded_again(
    web: TestClient, reader: Headers, run_id: str, settings: object
) -> None:
    body = {"texts": ["Sales rose."]}
    path = f"/v1/runs/{run_id}/predict"
    before = web.post(path, json=body, headers=reader).json()["predictions"][0]["probabilities"]

    from safetensors.torch import load_file, save_file

    folder = settings.runs / run_id / "systems" / "student" / "model"  # type: ignore[attr-defined]
    weights = next(folder.glob("*.safetensors"))
    changed = {name: tensor * 3 for name, tensor in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    after = web.post(path, json=body, headers=reader).json()["predictions"][0]["probabilities"]

    assert before != after
