"""finstill token: make, list and revoke the tokens of the HTTP service."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.table import Table

from workers.embedded_redis import EmbeddedRedis
from workers.services import Settings, connect, settings_from_environment
from workers.tokens import DEFAULT_REQUESTS_PER_MINUTE, Scope, Tokens


@click.group(name="token")
def token() -> None:
    """
    Make, list and revoke bearer tokens. Redis keeps their hashes only.

    \b
    finstill token create notebook --scope read
    finstill token list
    finstill token revoke 0a1b2c3d
    """


@token.command(name="create")
@click.argument("name")
@click.option(
    "--scope", default="read", type=click.Choice([s.value for s in Scope]), show_default=True
)
@click.option(
    "--requests-per-minute",
    default=DEFAULT_REQUESTS_PER_MINUTE,
    show_default=True,
    type=click.IntRange(1, 10_000_000),
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(name: str, scope: str, requests_per_minute: int, as_json: bool) -> None:  # fmt: skip
    """
    Make a token for NAME and print it, this once.

    \b
    finstill token create notebook --scope submit
    """
    with _tokens(settings_from_environment()) as tokens:
        made, text = tokens.create(name, Scope(scope), requests_per_minute)
    click.echo(json.dumps({**made.model_dump(mode="json"), "token": text}) if as_json else text)


@token.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """
    Show every valid token, without its secret.

    \b
    finstill token list
    """
    with _tokens(settings_from_environment()) as tokens:
        found = tokens.all()
    if as_json:
        click.echo(json.dumps([made.model_dump(mode="json") for made in found]))
        return
    table = Table("Id", "Name", "Scope", "Made", "Requests a minute", header_style="bold")
    for made in found:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(made.created_at))
        table.add_row(made.id, made.name, made.scope, day, str(made.requests_per_minute))
    Console().print(table)


@token.command(name="revoke")
@click.argument("token_id", metavar="ID")
def revoke(token_id: str) -> None:
    """
    End a token, and the browser sessions opened with it, at once.

    \b
    finstill token revoke 0a1b2c3d
    """
    with _tokens(settings_from_environment()) as tokens:
        tokens.revoke(token_id)
    click.echo(f"{token_id}: revoked.")


@contextmanager
def _tokens(settings: Settings) -> Iterator[Tokens]:
    """The tokens of REDIS_URL, or of the embedded server, which is started for this if need be."""
    embedded = None if settings.redis_url else EmbeddedRedis(settings.state / "redis")
    started = embedded is not None and not embedded.answers()
    if embedded and started:
        embedded.start()
    client = connect(settings.redis_url or (embedded.url if embedded else ""))
    try:
        yield Tokens(client)
    finally:
        client.close()
        if embedded and started:
            embedded.stop()
