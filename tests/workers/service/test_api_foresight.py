"""Over HTTP a student's mistake is refused as well, as far as it does not depend on the host."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prompt": "nosuch"}, "no student prompt 'nosuch'"),
        ({"tiny": {"family": "llama"}}, "'llama' cannot be trained as seq2seq"),
    ],
)
def test_a_student_that_cannot_be_trained_is_a_422_and_no_job(
    web: TestClient,
    submitter: dict[str, str],
    inline: Callable[..., dict[str, Any]],
    uploads: list[str],
    client: redis.Redis,
    change: dict[str, Any],
    sentence: str,
) -> None:
    config = inline(*uploads)
    config["student"] |= change

    answer = web.post("/v1/jobs", json={"inline": config}, headers=submitter)

    assert answer.status_code == 422, answer.text
    assert sentence in answer.json()["detail"]
    assert client.zcard("finstill:jobs") == 0
