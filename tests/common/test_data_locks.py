"""Locks that a process holds as long as it lives."""

import errno
import fcntl
from pathlib import Path

import pytest

from common.data.locks import try_lock
from common.errors import ServiceError


def test_a_file_is_held_by_one_and_looked_at_by_many(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("a+") as first, path.open("a+") as second:
        assert try_lock(first, path)
        assert not try_lock(second, path)
        assert not try_lock(second, path, shared=True)

    with path.open("a+") as first, path.open("a+") as second:
        assert try_lock(first, path, shared=True)
        assert try_lock(second, path, shared=True)
        assert not try_lock(second, path)


@pytest.mark.parametrize("fault", [errno.ENOLCK, errno.EBADF, errno.ENOTSUP])
def test_a_file_system_that_locks_nothing_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(fault, "refused")

    monkeypatch.setattr(fcntl, "flock", refuses)
    path = tmp_path / "lock"

    with path.open("a+") as stream, pytest.raises(ServiceError) as told:
        try_lock(stream, path, cure="move it")

    assert str(told.value) == (
        f"'{path}' cannot be locked (refused); expected a folder whose file system locks files: "
        "move it."
    )
