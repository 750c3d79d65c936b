"""Checkpoints in the store: a training whose host is lost goes on elsewhere."""

import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import load_config
from common.errors import ServiceError
from common.task import CONFIGS
from tests.doubles.stores import KEYS, Host
from tests.doubles.workers import Workers, own_redis, wait_until
from workers.client import Client
from workers.job_records import State
from workers.pipeline import LocalRun
from workers.registry import living_workers
from workers.store import RunStore
from workers.store_checkpoints import drop_checkpoints, fetch_checkpoints, send_checkpoints


def checkpoint(host: Host, step: int, manifest: bool = True) -> None:
    folder = f"systems/student/checkpoints/checkpoint-{step}"
    host.write(f"{folder}/weights.safetensors", f"weights of {step}")
    host.write(f"{folder}/optimizer/state", f"moments of {step}")
    if manifest:
        host.write(f"{folder}/manifest.json", "{}")


def send_all(host: Host) -> None:
    send_checkpoints(host.store, host.run.run_id, "student", host.run.checkpoints("student"))


def fetch_all(host: Host) -> None:
    fetch_checkpoints(host.store, host.run.run_id, "student", host.run.checkpoints("student"))


def test_a_host_that_trains_gets_the_complete_checkpoints_of_another(
    hosts: tuple[Host, Host],
) -> None:
    one, other = hosts
    checkpoint(one, 5)
    checkpoint(one, 10)
    checkpoint(one, 15, manifest=False)

    send_all(one)
    fetch_all(other)

    kept = {name.split("/")[3] for name in other.files}
    assert kept == {"checkpoint-5", "checkpoint-10"}
    assert other.files == {n: t for n, t in one.files.items() if "checkpoint-15" not in n}
    other.fetch()
    assert other.store.runs() == [], "checkpoints are no run"


def test_the_store_holds_just_the_checkpoints_that_are_kept(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    checkpoint(one, 5)
    send_all(one)
    checkpoint(one, 10)
    shutil.rmtree(one.run.checkpoints("student") / "checkpoint-5")
    send_all(one)

    fetch_all(other)
    assert {name.split("/")[3] for name in other.files} == {"checkpoint-10"}

    drop_checkpoints(one.store, one.run.run_id, "student")
    assert one.store.files(".checkpoints") == []


def test_a_checkpoint_whose_host_was_lost_while_it_was_sent_is_not_taken(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = hosts
    checkpoint(one, 5)
    put = one.store.put

    def lost(source: Path, name: str) -> None:
        if source.name == "manifest.json":
            raise ServiceError("the host is lost")
        put(source, name)

    monkeypatch.setattr(one.store, "put", lost)
    with pytest.raises(ServiceError):
        send_all(one)

    fetch_all(other)
    assert other.files == {}

    monkeypatch.setattr(one.store, "put", put)
    checkpoint(one, 10)
    shutil.rmtree(one.run.checkpoints("student") / "checkpoint-5")
    send_all(one)
    kept = {name.split("/")[2] for name in one.store.files(".checkpoints")}
    assert kept == {"checkpoint-10"}, "what was half sent goes"


@pytest.mark.services
@pytest.mark.slow
def test_a_training_whose_host_is_lost_goes_on_elsewhere_and_ends_with_the_same_weights(
    s3: str, tmp_path: Path
) -> None:
    address = f"{s3}/{uuid.uuid4().hex}"
    quick = ["data.train_limit=120", "data.test_limit=30", "training.max_steps=24",
             "training.checkpoint_every_steps=5", "training.batch_size=8",
             "student.tiny.hidden=32", "evaluation.bootstrap=100",
             "evaluation.rationale_rows=1"]  # fmt: skip
    config = load_config(CONFIGS / "demo.yaml", quick)
    config = config.model_copy(update={"baselines": {"majority": config.baselines["majority"]}})
    with own_redis(tmp_path, store=address) as settings:
        undisturbed = LocalRun(replace(settings, runs=tmp_path / "alone", store=None), config,
                               "train", lambda job: None)  # fmt: skip
        undisturbed.execute()
        hosts = {}
        for name in "abc":
            (tmp_path / name).mkdir()
            own = replace(settings, runs=tmp_path / name / "runs")
            hosts[name] = Workers(own, tmp_path / name, FINSTILL_STORE=address)
        hosts["a"].start("label")
        trainer = hosts["b"].start("train,evaluate")
        client = Client(settings)
        try:
            wait_until(lambda: len(living_workers(client.redis)) == 2, "both hosts listen")
            run = client.submit(config)
            home = RunStore(address, tmp_path / "look")
            sent = f".checkpoints/{run.run_id}/student"
            wait_until(lambda: any("manifest" in f for f in home.files(sent)), "one was sent", 120)
            hosts["b"].kill(trainer)
            hosts["c"].start("train,evaluate")
            job = client.follow(run.run_id, lambda job: None)
        finally:
            client.close()
            for host in hosts.values():
                host.stop_all()

    assert job.state is State.DONE, job.fault
    log = "".join(path.read_text() for path in (tmp_path / "c").glob("*.log"))
    weights = [path.read_bytes() for path in _weights(tmp_path / "c" / "runs" / run.run_id)]
    assert weights == [path.read_bytes() for path in _weights(undisturbed.run.root)]
    assert home.files(sent) == [], "a finished training leaves none"
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in log


def _weights(run: Path) -> list[Path]:
    found = sorted((run / "systems" / "student" / "model").glob("*.safetensors"))
    assert found
    return found
