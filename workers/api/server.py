"""The server process: uvicorn around the application, logs, and the first token."""

import gc
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from workers.services import Settings
from workers.tokens import Tokens

_DRAIN_SECONDS = 5
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run_server(
    settings: Settings,
    host: str,
    port: int,
    hosts: Sequence[str],
    https: bool,
    log_format: str,
) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first."""
    import uvicorn

    from workers.api.app import create_app
    from workers.api.state import Options

    names = frozenset(name.lower() for name in hosts)
    if not names and host in _LOOPBACK:
        names = frozenset(_LOOPBACK)
    app = create_app(settings, Options(hosts=names, secure_cookies=https))
    announce(app.state.services.tokens)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=log_config(log_format),
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=32 << 10,
        limit_concurrency=1024,
    )
    server = _Server(config)
    if settings.parent:
        threading.Thread(target=_end_with, args=(settings.parent,), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn repeats it after a good end
    server.run()


def _end_with(parent: int) -> None:
    """A stack that was killed must not leave a server on its port."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def announce(tokens: Tokens) -> None:
    """Make a first token where a person sees it; a token has no business in a log."""
    if tokens.all():
        return
    if sys.stdout.isatty():
        print(f"first token (admin), shown this once: {tokens.first()}", flush=True)
    else:
        print("no token yet: finstill token create NAME --scope admin", flush=True)


def _server_class() -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """Tells open event streams to end when the process is told to."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            _spare_the_collector()

        def handle_exit(self, sig: int, frame: Any) -> None:
            self.config.app.state.stopping.set()  # type: ignore[union-attr]
            super().handle_exit(sig, frame)

    return Server


def _spare_the_collector() -> None:
    """
    What is loaded at the start stays: looking it over takes 80 ms, in which nobody is answered.

    With what the first submission would load.
    """
    importlib.import_module("workers.tasks")
    gc.collect()
    gc.freeze()


def _Server(config: Any) -> Any:
    return _server_class()(config)


def log_config(log_format: str) -> dict[str, Any]:
    """Logging for the server process, to standard error."""
    text = "%(asctime)s %(levelname)s %(name)s %(message)s"
    formatter: dict[str, Any] = {"format": text}
    if log_format == "json":
        formatter = {"()": "workers.logs.JsonLines"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {
            "error": {"class": "logging.StreamHandler", "formatter": "line", "stream": sys.stderr}
        },
        "root": {"level": "INFO", "handlers": ["error"]},
        "loggers": {"uvicorn.error": {"level": "INFO"}},
    }
