"""A job through a service that hangs, cuts, mumbles and refuses: every row is answered, once."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from pydantic import TypeAdapter

from common.config.teacher import LabellingConfig, Pace, TeacherConfig
from common.records import Example, Reason, TeacherAnswer, Unanswered
from common.task import load_task
from teacher.build import TeacherSettings, build_teacher
from teacher.labelling import label_examples
from teacher.loops import close_loop, run
from teacher.services import redis_services
from tests.doubles import wire_double as wire

KINDS = ["hang", "cut", "truncated", "not_json", "500", "502", "529", "429"]
ROWS = 240


@pytest.fixture
def double() -> Iterator[Any]:
    with wire.WireDouble() as running:
        running.latency = 0.01
        yield running


@pytest.mark.parametrize(
    ("kind", "model"), [("claude", "claude-haiku-5-5"), ("vllm", "tiny-llama")]
)
def test_every_row_is_answered_through_all_kinds_of_faults_and_paid_once(
    double: Any, client: redis.Redis, kind: str, model: str
) -> None:
    double.faults = [
        *(
            wire.Fault(fault, match=f"Plant {n}{k} ")
            for n, fault in enumerate(KINDS, 1)
            for k in "07"
        ),
        wire.Fault("500", times=10_000, match="Plant 239 "),
    ]
    rows = [Example(id=f"r{i}", text=f"Plant {i} reported positive news.") for i in range(ROWS)]
    pace = Pace(timeout_seconds=3, max_attempts=3)
    values = {"kind": kind, "model": model, "pace": pace.model_dump()}
    settings = TeacherSettings(
        anthropic_api_key=double.key,
        anthropic_base_url=double.url,
        vllm_base_url=double.url,
        vllm_api_key=double.key,
    )
    config = TypeAdapter[Any](TeacherConfig).validate_python(values)
    teacher = build_teacher(config, load_task("sentiment"), settings)
    services = redis_services(client, "job", LabellingConfig(), pace)

    answers = label_examples(rows, teacher, LabellingConfig(), services)
    run(teacher.close())
    close_loop()

    unanswered = [a for a in answers if isinstance(a, Unanswered)]
    assert [(a.example_id, a.reason) for a in unanswered] == [("r239", Reason.UNAVAILABLE)]
    assert sum(isinstance(a, TeacherAnswer) for a in answers) == ROWS - 1
    assert all(fault.times == 0 for fault in double.faults[:-1]), "every fault was met"
    # a reply that was cut off or came too late was made, and is asked for once more
    assert double.paid.total() <= ROWS - 1 + 2 * 4
