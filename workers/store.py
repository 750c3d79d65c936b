"""
Runs mirrored to a place all hosts reach: an object store, or whatever else fsspec can address.

Without a store all hosts share one runs folder. With one (FINSTILL_STORE) each host has a folder of
its own: before a task it fetches what the others finished, after it sends what is new. A stage's
marker is written last there too, and read first, so nobody takes a half-sent stage for a finished
one. Checkpoints of a training lie apart, see workers/store_checkpoints.py.
"""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

from common.errors import ServiceError
from workers.run_directory import read_json, write_json
from workers.services import Settings

logger = logging.getLogger(__name__)

UPLOADS = ".datasets"
_KNOWN, _LOCK = ".store.json", ".store.lock"
_MARKERS = "stages/"
_LEFT_HERE = {"checkpoints", "live.jsonl"}
_TRIES, _PAUSE_SECONDS = 4, 1.0


class RunStore:
    """
    One store and the folder of runs that is its copy on this host. Safe in several processes.

    Every method raises ServiceError when the store does not do as asked after some tries.
    """

    def __init__(self, url: str, runs: Path):
        import fsspec

        self._url, self._runs = url, runs
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ServiceError(
                f"FINSTILL_STORE {url} cannot be used ({error}); for s3:// addresses install "
                "finstill[s3]."
            ) from error

    def fetch(self, run_id: str) -> None:
        """Bring what others sent of a run since the last look, and the uploads it reads."""
        with self._alone(run_id) as folder:
            known = read_json(folder / _KNOWN) or {}
            there = self._asked(partial(self._listing, run_id))
            for name in sorted(there, key=_markers_last):
                if known.get(name, [""])[0] != there[name]:
                    self._asked(partial(self._get, f"{run_id}/{name}", folder / name))
                    known[name] = [there[name], *_stamp(folder / name)]
                    write_json(folder / _KNOWN, known)
        for upload in self._uploads_of(folder):
            if not upload.exists():
                self._asked(partial(self._get, f"{UPLOADS}/{upload.name}", upload))

    def send(self, run_id: str) -> None:
        """Send what is new of a run, and the uploads it reads."""
        for upload in self._uploads_of(self._runs / run_id):
            self._asked(partial(self._send_once, upload))
        with self._alone(run_id) as folder:
            known = read_json(folder / _KNOWN) or {}
            for name in sorted(_names(folder), key=_markers_last):
                stamp = _stamp(folder / name)
                if known.get(name, [])[1:] != stamp:
                    tag = self._asked(partial(self._put, folder / name, f"{run_id}/{name}"))
                    known[name] = [tag, *stamp]
                    write_json(folder / _KNOWN, known)

    def runs(self) -> list[str]:
        """The ids of the runs and comparisons in the store."""
        kinds = [f"{self._root}/*/{name}" for name in ("config.json", "comparison.json")]
        found = [path for kind in kinds for path in self._asked(partial(self._files.glob, kind))]
        return sorted(PurePosixPath(path).parent.name for path in found)

    def put(self, source: Path, name: str) -> None:
        """Send one file; one that is gone by now, as a pruned checkpoint's, is passed over."""

        def attempt() -> None:
            if source.exists():
                self._put(source, name)

        self._asked(attempt)

    def get(self, name: str, target: Path) -> None:
        """Bring one file, whole or not at all."""
        self._asked(partial(self._get, name, target))

    def files(self, folder: str) -> list[str]:
        """The names of the files below a folder, relative to it; none where there is none."""
        top = f"{self._root}/{folder}/"
        return sorted(self._asked(partial(self._tags, top, top)))

    def remove(self, name: str) -> None:
        """Delete a file, or a folder with all that is below it."""
        path = f"{self._root}/{name}"

        def attempt() -> None:
            self._files.invalidate_cache()
            if self._files.exists(path):
                self._files.rm(path, recursive=True)

        self._asked(attempt)

    def _listing(self, run_id: str) -> dict[str, str]:
        """Name within the run -> tag of its content; markers are as of before the rest."""
        top = f"{self._root}/{run_id}/"
        markers = self._tags(top + _MARKERS, top)
        rest = self._tags(top, top)
        return {n: t for n, t in rest.items() if not n.startswith(_MARKERS)} | markers

    def _tags(self, folder: str, top: str) -> dict[str, str]:
        self._files.invalidate_cache()
        found = self._files.find(folder.rstrip("/"), detail=True)
        return {path[len(top) :]: _tag(info) for path, info in found.items()}

    def _get(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".incoming-{os.getpid()}-{target.name}")
        try:
            self._files.get_file(f"{self._root}/{name}", str(aside))
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)

    def _put(self, source: Path, name: str) -> str:
        """The tag of what stands there now."""
        target = f"{self._root}/{name}"
        if "file" in self._files.protocol:  # seen while it grows, where an object appears whole
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(source), f"{target}.part")
            self._files.mv(f"{target}.part", target)
        else:
            self._files.put_file(str(source), target)
        self._files.invalidate_cache()
        return _tag(self._files.info(target))

    def _send_once(self, upload: Path) -> None:
        """Its name is the digest of its content."""
        name = f"{UPLOADS}/{upload.name}"
        if upload.exists() and not self._files.exists(f"{self._root}/{name}"):
            self._put(upload, name)

    def _uploads_of(self, folder: Path) -> list[Path]:
        """The files of uploads that the run's config names, by their path on every host."""
        tree = read_json(folder / "config.json") or {}
        teachers = [tree.get("teacher"), *(tree.get("teachers") or [])]
        named = [(tree.get("data") or {}).get(key) for key in ("path", "test_path")]
        named += [teacher.get("answers") for teacher in teachers if teacher]
        paths = [Path(name) for name in named if name]
        return [path for path in paths if path.parent == self._runs / UPLOADS]

    def _asked(self, attempt: Callable[[], Any]) -> Any:
        """Tried some times: a store that stumbles must not end a job."""
        for left in reversed(range(_TRIES)):
            try:
                return attempt()
            except Exception as error:  # each kind of store has errors of its own
                if not left:
                    raise ServiceError(
                        f"the store {self._url} does not answer as it should "
                        f"({type(error).__name__}: {error}); see FINSTILL_STORE, then resume."
                    ) from error
                logger.warning("the store does not answer: %s", error)
                time.sleep(_PAUSE_SECONDS * (_TRIES - left))

    @contextmanager
    def _alone(self, run_id: str) -> Iterator[Path]:
        """Among this host's processes."""
        folder = self._runs / run_id
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder


@lru_cache(maxsize=4)
def _store(url: str, runs: Path, pid: int) -> RunStore:
    """Of this process: a forked one must not go on with its parent's connections."""
    return RunStore(url, runs)


def store_of(settings: Settings) -> RunStore | None:
    """The store of an installation, None where there is none."""
    return _store(settings.store, settings.runs, os.getpid()) if settings.store else None


def _names(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    found = (path.relative_to(folder) for path in paths)
    return [n.as_posix() for n in found if not _stays(n.parts)]


def _stays(parts: tuple[str, ...]) -> bool:
    return not _LEFT_HERE.isdisjoint(parts) or any(part.startswith(".") for part in parts)


def _markers_last(name: str) -> tuple[bool, str]:
    return name.startswith(_MARKERS), name


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _tag(info: dict[str, Any]) -> str:
    if "ETag" in info:
        return str(info["ETag"])
    return f"{info.get('size')} {info.get('mtime') or info.get('created')}"
