"""Stores of runs to test with: an S3-compatible server as a process, and hosts that share it."""

import socket
from pathlib import Path

from workers.run_directory import RunDirectory
from workers.store import RunStore

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-this-test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Host:
    """A folder of runs that is a copy of the store."""

    def __init__(self, address: str, runs: Path):
        self.runs = runs
        self.store = RunStore(address, runs)
        self.run = RunDirectory(runs / "small-0123456789")

    def write(self, name: str, text: str) -> None:
        path = self.run.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def send(self) -> None:
        self.store.send(self.run.run_id)

    def fetch(self) -> None:
        self.store.fetch(self.run.run_id)

    @property
    def files(self) -> dict[str, str]:
        found = (p for p in self.run.root.rglob("*") if p.is_file())
        plain = (p.relative_to(self.run.root).as_posix() for p in found)
        return {n: (self.run.root / n).read_text() for n in plain if not n.startswith(".store")}
