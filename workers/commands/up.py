"""finstill up: Redis, workers, API and dashboard in one command."""

import math
import signal
import time
import urllib.error
import urllib.request

import click

from common.errors import ServiceError
from workers.ownership import only_one
from workers.services import Settings, connect, settings_from_environment
from workers.stack import Stack, stop_stack
from workers.tokens import Tokens

_START_SECONDS = 60.0


@click.command(name="up")
@click.option("--host", default="127.0.0.1", show_default=True, envvar="FINSTILL_HOST")
@click.option(
    "--port", default=8230, show_default=True, type=click.IntRange(1, 65535), envvar="FINSTILL_PORT"
)
def up(host: str, port: int) -> None:  # fmt: skip
    """
    Start an embedded Redis, a labelling worker, a training worker, the API and the dashboard.

    Ctrl-C lets the tasks at hand finish or hand themselves back, then stops all. What was queued
    waits in the state folder for the next start.

    \b
    finstill up
    finstill up --port 9000
    """
    settings = settings_from_environment()
    if settings.redis_url:
        raise ServiceError(
            "REDIS_URL is set: `finstill up` is for a Redis of its own; with yours, start "
            "`finstill serve` and `finstill worker`, or unset REDIS_URL."
        )
    stop_stack(settings)
    with only_one(settings) as alone:
        if not alone:
            raise ServiceError(
                f"another `finstill up` or a running job owns {settings.state}; stop it first, or "
                "set FINSTILL_STATE to another folder."
            )
        _own(settings, host, port)


def _own(settings: Settings, host: str, port: int) -> None:
    serve = ["serve", "--host", host, "--port", str(port)]
    stack = Stack(settings, also={"api": serve}, keep=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until `watch` takes over
    address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"
    try:
        stack.redis.start()
        token = _first_token(stack.redis.url)
        stack.start()
        _wait(address, settings)
        click.echo(f"finstill is up: {address}")
        if token:
            click.echo(f"first token (admin), shown this once: {token}")
        click.echo("Ctrl-C stops it; logs are in " + str(settings.state), err=True)
        stack.watch(math.inf)
        click.echo("stopping: tasks at hand finish first", err=True)
    finally:
        stack.stop()


def _first_token(url: str) -> str | None:
    client = connect(url)
    try:
        return Tokens(client).first()
    finally:
        client.close()


def _wait(address: str, settings: Settings) -> None:
    """Until the API answers. Raises ServiceError naming its log."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    log = settings.state / "worker-api.log"
    raise ServiceError(f"the API did not start at {address} (is the port taken?); see {log}.")
