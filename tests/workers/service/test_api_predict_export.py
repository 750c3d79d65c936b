"""The service answers from an export as it does from the trained student."""

import importlib.util
from typing import Any

import pytest
from starlette.testclient import TestClient

from student.export.export import export_student
from workers.services import Settings

Headers = dict[str, str]
TEXTS = ["Sales of unit 3 rose sharply.", "Sales of unit 4 fell sharply.", "Unit 5 opens."]


@pytest.mark.parametrize("form", ["merged", "ctranslate2", "onnx"])
def test_an_export_answers_over_http_like_its_student(
    web: TestClient, reader: Headers, run_id: str, settings: Settings, form: Any
) -> None:
    if (
        form != "merged"
        and importlib.util.find_spec({"onnx": "onnxruntime"}.get(form, form)) is None
    ):
        pytest.skip(f"{form} needs the extra finstill[export]")
    home = settings.runs / run_id / "systems" / "student"
    numbers = None if form == "merged" else "float32"
    export_student(
        home / "model", form, home / "exports" / "shipped", TEXTS, numbers=numbers, threads=1
    )

    def ask(**more: Any) -> Any:
        body = {"texts": TEXTS, "rationales": True, **more}
        return web.post(f"/v1/runs/{run_id}/predict", json=body, headers=reader).json()

    trained, shipped = ask()["predictions"], ask(export="shipped")["predictions"]

    assert [row["label"] for row in shipped] == [row["label"] for row in trained]
    for ours, theirs in zip(shipped, trained, strict=True):
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-3)
    assert all((row["rationale"] is None) == (form == "onnx") for row in shipped)


def test_an_export_that_is_not_there_and_a_name_that_is_a_path_are_refused(
    web: TestClient, reader: Headers, run_id: str
) -> None:
    for name, status in (("nothing", 404), ("../model", 422)):
        body = {"texts": TEXTS, "export": name}
        answer = web.post(f"/v1/runs/{run_id}/predict", json=body, headers=reader)
        assert answer.status_code == status
