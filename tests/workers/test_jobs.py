"""What a job record says, whatever order its workers write in."""

import time

import pytest
import redis

from common.errors import InputError
from teacher.budget import RedisPurse, spent_by_all
from workers.display import note
from workers.job_records import Fault, StageRecord, State
from workers.jobs import Jobs


def stages(*states: State) -> list[StageRecord]:
    return [
        StageRecord(name=f"s{i}", title=f"Stage {i}", state=state) for i, state in enumerate(states)
    ]


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ([State.WAITING, State.WAITING], State.QUEUED),
        ([State.DONE, State.QUEUED], State.RUNNING),
        ([State.DONE, State.DONE], State.DONE),
        ([State.DONE, State.FAILED], State.FAILED),
        ([State.PAUSED, State.QUEUED], State.PAUSED),
    ],
)
def test_a_jobs_state_follows_from_its_stages(
    client: redis.Redis, states: list[State], state: State
) -> None:
    jobs = Jobs(client)

    jobs.submit("run-1", "run", stages(*states))

    assert jobs.get("run-1").state is state


def test_labelling_shows_its_rows_its_money_and_its_pace_while_it_runs(
    client: redis.Redis,
) -> None:
    jobs = Jobs(client)
    label = StageRecord(name="label", title="Ask", state=State.RUNNING, total=900, started_at=1.0)
    jobs.submit("run-1", "label", [label])
    client.set("finstill:pace:anthropic:haiku", '{"limit": 48.0}')

    jobs.note_service("run-1", "anthropic:haiku")
    jobs.count_chunk("run-1", 0, {"rows": 200, "cached": 16, "usd": 0.5})
    jobs.count_chunk("run-1", 1, {"rows": 100, "usd": 0.25, "failed": 1})

    assert jobs.get("run-1").pace == {}, "two more round trips that most readers do not need"
    job = jobs.with_pace(jobs.get("run-1"))
    assert job.stages[0].done == 300
    assert job.stages[0].info == {"cached": 16, "failed": 1, "usd": 0.75}
    assert job.pace == {"anthropic:haiku": 48.0}
    assert "48 at a time" in note(job.stages[0], job)


def test_a_chunk_done_twice_is_counted_once(client: redis.Redis) -> None:
    jobs = Jobs(client)
    jobs.submit("run-1", "run", stages(State.RUNNING))

    jobs.count_chunk("run-1", 0, {"rows": 100, "usd": 0.5})
    jobs.count_chunk("run-1", 0, {"rows": 256, "usd": 1.0})
    jobs.count_chunk("run-1", 1, {"rows": 44, "usd": 0.25})

    assert jobs.get("run-1").counters == {"rows": 300, "usd": 1.25}


def test_totals_only_grow(client: redis.Redis) -> None:
    jobs = Jobs(client)

    jobs.add_to_totals({"asked": 200, "cached": 1})
    jobs.count_chunk("run-1", 0, {"rows": 30, "cached": 30})  # taken over after a crash
    jobs.add_to_totals({"cached": 200, "asked": 56})

    assert jobs.totals() == {"asked": 256, "cached": 201}


def test_a_job_tells_what_was_paid_the_probe_included(client: redis.Redis) -> None:
    jobs = Jobs(client)
    jobs.submit("run-1", "run", stages(State.RUNNING))
    RedisPurse(client, "run-1").settle("probe", 0.125, 0.0)
    RedisPurse(client, "run-1").settle("chunk", 1.0, 0.0)
    RedisPurse(client, "run-2").settle("chunk", 0.5, 0.0)

    jobs.count_chunk("run-1", 0, {"rows": 256, "usd": 1.0})

    assert jobs.get("run-1").counters == {"rows": 256, "usd": 1.125}
    assert spent_by_all(client) == 1.625


def test_a_failure_keeps_its_sentence_and_its_exit_code(client: redis.Redis) -> None:
    jobs = Jobs(client)
    jobs.submit("run-1", "run", stages(State.RUNNING))

    jobs.end("run-1", State.FAILED, Fault(kind="InputError", message="no such file", exit_code=2))

    job = jobs.get("run-1")
    assert job.ended
    assert job.fault == Fault(kind="InputError", message="no such file", exit_code=2)


def test_submitting_again_forgets_the_cancellation(client: redis.Redis) -> None:
    jobs = Jobs(client)
    jobs.submit("run-1", "run", stages(State.QUEUED))
    jobs.cancel("run-1")
    assert jobs.is_cancelled("run-1")

    jobs.submit("run-1", "run", stages(State.QUEUED))

    assert not jobs.is_cancelled("run-1")


def test_a_unique_beginning_names_a_job_and_an_ambiguous_one_does_not(client: redis.Redis) -> None:
    jobs = Jobs(client)
    for name in ("demo-aa", "demo-bb"):
        jobs.submit(name, "run", stages(State.QUEUED))

    assert jobs.get("demo-a").id == "demo-aa"
    with pytest.raises(InputError, match="names several jobs"):
        jobs.get("demo")
    with pytest.raises(InputError, match="is no job"):
        jobs.get("other")


def test_a_resumed_training_tells_the_speed_of_its_steps_not_of_those_before() -> None:
    told = {"eta_seconds": 50.0, "seconds": 0.5}
    stage = StageRecord(
        name="train:student", title="Train student", state=State.RUNNING, done=3000, total=3100,
        unit="steps", started_at=time.time() - 50, info=told,
    )  # fmt: skip

    assert stage.per_second == 2
    assert note(stage) == "2 steps/s, 50 s left"
