"""Paid answers survive the loss of their Redis: exported, imported, counted, checked."""

from pathlib import Path

import pytest
import redis

from common.records import Usage
from teacher.base import Reply
from teacher.cache import RedisCache
from teacher.entries import Entry
from workers.cli import main
from workers.embedded_redis import EmbeddedRedis

KEY = "ab" * 32


def entry() -> Entry:
    reply = Reply(
        body={"label": "positive"},
        usage=Usage(input_tokens=300, output_tokens=40, usd=0.25),
        model="m-1",
        received_at=1.0,
    )
    return Entry(reply=reply, teacher="claude", provider="p", terms="conditions")


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["cache", *arguments])
    out, err = capsys.readouterr()
    return left.value.code, out, err


@pytest.fixture(autouse=True)
def address(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)


def test_a_lost_redis_costs_nothing_after_an_export(
    client: redis.Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RedisCache(client).store({KEY: entry()}, "test")
    saved = str(tmp_path / "answers.parquet")

    assert run(["export", saved], capsys)[1].startswith("1 answers written")
    client.flushall()
    first, second = run(["import", saved], capsys), run(["import", saved], capsys)

    assert first[1] == "1 answers imported, 0 were there already\n"
    assert second[1] == "0 answers imported, 1 were there already\n"
    found = RedisCache(client).look_up([KEY])[0]
    assert found is not None
    assert found.reply.usage.usd == 0.25
    assert run(["verify"], capsys)[1] == "1 answers read, 0 damaged\n"


def test_dropping_wants_to_know_what(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["drop", "--yes"], capsys)

    assert code == 2
    assert "--model, --teacher or --damaged" in err


def test_importing_what_is_no_export_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.parquet").write_text("no parquet")

    code, _, err = run(["import", str(tmp_path / "other.parquet")], capsys)

    assert code == 2
    assert "other.parquet" in err
