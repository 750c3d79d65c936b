"""
Checkpoints of a training under way in the store of runs, so that another host can go on from them.

They lie apart from the runs (.checkpoints/RUN/SYSTEM/checkpoint-N/): they are large, and only a
host that trains fetches them. A checkpoint's manifest is sent last and fetched last: what a lost
host half sent is never taken, and goes with the next checkpoint or at the training's end.
"""

from pathlib import Path, PurePosixPath

from workers.store import RunStore

CHECKPOINTS = ".checkpoints"
MANIFEST = "manifest.json"


def send_checkpoints(store: RunStore, run_id: str, system: str, folder: Path) -> None:
    """
    Make the store hold just the complete checkpoints of `folder`.

    Raises ServiceError when the store does not do as asked after some tries.
    """
    there = _files(store, run_id, system)
    here = {p.parent.name: p.parent for p in folder.glob(f"checkpoint-*/{MANIFEST}")}
    for name in sorted(here.keys() - {name for name, files in there.items() if MANIFEST in files}):
        files = [path for path in here[name].rglob("*") if path.is_file()]
        for file in sorted(files, key=lambda path: path.name == MANIFEST):
            part = file.relative_to(here[name]).as_posix()
            store.put(file, f"{_home(run_id, system)}/{name}/{part}")
    for name in sorted(there.keys() - here.keys()):
        store.remove(f"{_home(run_id, system)}/{name}/{MANIFEST}")  # from now on it is not complete
        store.remove(f"{_home(run_id, system)}/{name}")


def fetch_checkpoints(store: RunStore, run_id: str, system: str, folder: Path) -> None:
    """Bring the complete checkpoints that `folder` lacks. Raises ServiceError."""
    for name, files in sorted(_files(store, run_id, system).items()):
        if MANIFEST in files and not (folder / name / MANIFEST).exists():
            for part in sorted(files, key=lambda part: part == MANIFEST):
                store.get(f"{_home(run_id, system)}/{name}/{part}", folder / name / part)


def drop_checkpoints(store: RunStore, run_id: str, system: str) -> None:
    """Remove all of them: the finished model is in the store. Raises ServiceError."""
    store.remove(_home(run_id, system))


def _files(store: RunStore, run_id: str, system: str) -> dict[str, list[str]]:
    """checkpoint-N -> its files."""
    found: dict[str, list[str]] = {}
    for path in store.files(_home(run_id, system)):
        name, *rest = PurePosixPath(path).parts
        found.setdefault(name, []).append("/".join(rest))
    return found


def _home(run_id: str, system: str) -> str:
    return f"{CHECKPOINTS}/{run_id}/{system}"
