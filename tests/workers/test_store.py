"""Runs in an object store: what one host finished, another goes on from."""

import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import load_config
from common.errors import ServiceError
from common.task import CONFIGS
from tests.doubles.stores import KEYS, Host
from tests.doubles.workers import Workers, own_redis, wait_until
from workers import store as store_module
from workers.client import Client
from workers.job_records import State
from workers.registry import living_workers
from workers.run_directory import write_json
from workers.store import RunStore


def test_what_one_host_finished_is_there_on_the_other(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    one.write("config.json", "{}")
    one.write("labels/chunks/000000.parquet", "answers")
    one.run.mark_done("label", "fingerprint", 1.0)

    one.send()
    other.fetch()

    assert other.files == one.files
    assert other.run.is_done("label", "fingerprint")
    assert other.store.runs() == [one.run.run_id]


def test_both_add_and_each_sees_the_others_newest(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    one.write("config.json", "{}")
    one.write("report.md", "first")
    one.send()
    other.fetch()
    before = (other.run.root / "config.json").stat().st_mtime_ns

    one.write("report.md", "second, which is longer")
    one.send()
    other.write("labels/chunks/000001.parquet", "more")
    other.fetch()
    other.send()
    one.fetch()

    assert one.files == other.files
    assert one.files["report.md"] == "second, which is longer"
    assert "labels/chunks/000001.parquet" in one.files
    assert (other.run.root / "config.json").stat().st_mtime_ns == before, "not fetched twice"


def test_what_is_unfinished_stays_where_it_is(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    one.write("config.json", "{}")
    one.write("systems/student/checkpoints/step-5/weights", "half")
    one.write("systems/student/live.jsonl", "{}")
    one.write("labels/.answers.parquet.0123.partial", "half")

    one.send()
    other.fetch()

    assert other.files == {"config.json": "{}"}


def test_an_upload_travels_with_the_run_that_reads_it(address: str, tmp_path: Path) -> None:
    host = Host(address, tmp_path / "runs")
    upload = host.runs / ".datasets" / ("a" * 64 + ".jsonl")
    upload.parent.mkdir(parents=True)
    upload.write_text('{"text": "Up."}')
    write_json(host.run.config_file, {"data": {"path": str(upload)}, "teacher": {"kind": "vllm"}})
    host.send()
    for path in [*host.run.root.iterdir(), upload]:
        path.unlink()

    host.fetch()

    assert upload.read_text() == '{"text": "Up."}'


def test_a_marker_arrives_after_what_it_stands_for(tmp_path: Path) -> None:
    import fsspec

    top = uuid.uuid4().hex
    host = Host(f"memory://{top}", tmp_path)
    for number in range(5):
        host.write(f"systems/student/model/part-{number}", "x")
    host.run.mark_done("train:student", "fingerprint", 1.0)

    host.send()

    found = fsspec.filesystem("memory").find(f"/{top}", detail=True)
    by_time = sorted(found, key=lambda path: found[path]["created"])
    assert len(by_time) == 6
    assert by_time[-1].endswith("stages/train.student.json")


def test_a_store_that_is_away_is_named_with_the_cure(
    tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_PAUSE_SECONDS", 0.0)
    store = RunStore("s3://no-such-bucket/runs", tmp_path)
    write_json(tmp_path / "small-1" / "config.json", {})

    with pytest.raises(ServiceError, match=r"s3://no-such-bucket/runs.*FINSTILL_STORE") as refused:
        store.send("small-1")

    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(refused.value)
    with pytest.raises(ServiceError, match="nosuch"):
        RunStore("nosuch://x", tmp_path)


@pytest.mark.services
@pytest.mark.slow
def test_two_hosts_without_a_common_folder_make_a_run_by_way_of_s3(s3: str, tmp_path: Path) -> None:
    address = f"{s3}/{uuid.uuid4().hex}"
    quick = ["data.train_limit=120", "data.test_limit=30", "labelling.chunk_rows=10",
             "training.max_steps=6", "training.batch_size=8", "training.evaluations=1",
             "student.tiny.hidden=16", "evaluation.bootstrap=100",
             "evaluation.rationale_rows=1"]  # fmt: skip
    config = load_config(CONFIGS / "demo.yaml", quick)
    config = config.model_copy(update={"baselines": {"majority": config.baselines["majority"]}})
    with own_redis(tmp_path, store=address) as settings:
        hosts = []
        for name, queues in (("a", "label"), ("b", "label"), ("c", "train,evaluate")):
            (tmp_path / name).mkdir()
            runs = tmp_path / name / "runs"
            hosts.append(Workers(replace(settings, runs=runs), tmp_path / name,
                                 FINSTILL_STORE=address))  # fmt: skip
            hosts[-1].start(queues)
        client = Client(settings)
        try:
            wait_until(lambda: len(living_workers(client.redis)) == 3, "all hosts listen")
            run = client.submit(config)
            job = client.follow(run.run_id, lambda job: None)
        finally:
            client.close()
            for host in hosts:
                host.stop_all()

    assert job.state is State.DONE, job.fault
    assert run.report("html").exists(), "the client has what others made"
    trained = tmp_path / "c" / "runs" / run.run_id
    assert (trained / "systems" / "student" / "model").is_dir()
    assert len(list(trained.glob("labels/chunks/*/*.parquet"))) == 12
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in "".join(
        log.read_text() for log in tmp_path.glob("?/*.log")
    )
