"""`finstill export --push`: the export arrives whole in a private repository, under a fit name."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.errors import UsageError
from workers.commands.export import upload


class Hub(ThreadingHTTPServer):
    """As much of the model hub as an upload needs; keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuses = False


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._send({"sha": "a" * 40, "id": "me/student", "siblings": [], "private": True})

    def do_POST(self) -> None:
        hub: Any = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.refuses:
            self._send({"error": "You have no write access."}, 403)
        elif self.path.endswith("/repos/create"):
            hub.created.append(json.loads(body))
            self._send({"url": f"{hub.address}/me/student", "name": "me/student"})
        elif "/preupload/" in self.path:
            names = [f["path"] for f in json.loads(body)["files"]]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            self._send({"files": [{"path": n, **regular} for n in names]})
        elif self.path.endswith("/validate-yaml"):  # the card's front matter
            self._send({"errors": [], "warnings": []})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    hub.files[value["path"]] = base64.b64decode(value["content"])
            told = {"commitUrl": f"{hub.address}/me/student/commit/a", "commitOid": "a" * 40}
            self._send({**told, "success": True})

    def _send(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    folder = tmp_path / "shipped"
    (folder / "onnx").mkdir(parents=True)
    (folder / "README.md").write_text("# Llama-river\n")
    (folder / "export.json").write_text("{}")
    (folder / "onnx" / "encoder.onnx").write_bytes(bytes(range(256)))
    return folder


def test_every_file_of_an_export_arrives_in_a_private_repository(hub: Hub, shipped: Path) -> None:
    address = upload(shipped, "me/student")

    assert address == f"{hub.address}/me/student"
    assert [made["visibility"] for made in hub.created] == ["private"]
    sent = {p.relative_to(shipped).as_posix(): p.read_bytes() for p in shipped.rglob("*.*")}
    assert hub.files == sent
    assert hub.tokens == {"Bearer hf_of_a_test"}


def test_refused_upload_is_one_sentence_and_the_export_stays(hub: Hub, shipped: Path) -> None:
    hub.refuses = True

    with pytest.raises(UsageError, match="the hub did not take it") as caught:
        upload(shipped, "me/student")

    assert str(shipped) in str(caught.value)
    assert "hf_of_a_test" not in str(caught.value)
    assert (shipped / "README.md").is_file()
