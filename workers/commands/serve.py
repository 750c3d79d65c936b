"""finstill serve: the HTTP API and the dashboard."""

import click

from common.errors import ServiceError
from workers.commands import options
from workers.services import settings_from_environment


@click.command(name="serve")
@click.option("--host", default="127.0.0.1", show_default=True, envvar="FINSTILL_HOST")
@click.option(
    "--port", default=8230, show_default=True, type=click.IntRange(0, 65535), envvar="FINSTILL_PORT"
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    envvar="FINSTILL_HOSTS",
    help="A name the service may be called by; without any, a service on 127.0.0.1 "
    "answers to loopback names and others to every name.",
)
@click.option(
    "--https",
    is_flag=True,
    envvar="FINSTILL_HTTPS",
    help="It is reached through HTTPS: cookies travel there only.",
)
@options.log_format
def serve(host: str, port: int, hosts: tuple[str, ...], https: bool, log_format: str) -> None:
    """
    Serve API and dashboard until SIGTERM. Prints a first token when there is none yet.

    \b
    REDIS_URL=redis://redis:6379/0 finstill serve --host 0.0.0.0 --allow-host finstill.example
    finstill up                       # with Redis and workers of its own
    """
    settings = settings_from_environment()
    if not settings.redis_url:
        raise ServiceError(
            "REDIS_URL is not set: `finstill serve` needs a Redis that workers share; "
            "`finstill up` starts one with workers, API and dashboard together."
        )
    from workers.api.server import run_server

    run_server(settings, host, port, hosts, https, log_format)
