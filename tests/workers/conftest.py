"""A real Redis-compatible server for the tests of this folder, and stores of runs."""

import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.doubles.stores import KEYS, Host, listens
from tests.doubles.workers import wait_until
from workers.embedded_redis import EmbeddedRedis


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    embedded = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    embedded.start()
    yield embedded
    embedded.stop()


@pytest.fixture
def client(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    connection = redis.Redis.from_url(server.url)
    connection.flushall()
    yield connection
    connection.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3-compatible server as a process; the address of a bucket in it."""
    pytest.importorskip("moto", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "server.log").open("wb")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
            patch.setenv(name, value)
        wait_until(lambda: listens(port), "S3 listens")
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()  # of another module's server
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("finstill-runs")
        yield "s3://finstill-runs"
    process.terminate()
    process.wait(10)
    log.close()


@pytest.fixture(params=["memory", "file", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    if request.param == "file":
        return f"file://{tmp_path / 'store'}"
    return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"


@pytest.fixture
def hosts(address: str, tmp_path: Path) -> tuple[Host, Host]:
    return Host(address, tmp_path / "a"), Host(address, tmp_path / "b")
