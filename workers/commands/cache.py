"""finstill cache: the answers that were paid for."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from common.errors import FinstillError, UsageError
from teacher.cache import AnswerCache, RedisCache
from teacher.cache_files import (
    CacheStats,
    cache_stats,
    drop_answers,
    export_cache,
    import_cache,
    verify_cache,
)
from workers.embedded_redis import EmbeddedRedis
from workers.services import Settings, connect, settings_from_environment
from workers.stack import running_stack


@click.group(name="cache")
def cache() -> None:
    """
    Look into, save, restore or check the answers that were paid for.

    \b
    finstill cache stats
    finstill cache export answers.parquet
    """


@contextmanager
def open_cache(settings: Settings) -> Iterator[AnswerCache]:
    """The cache of REDIS_URL or of the embedded server, which is started for as long as needed."""
    own: EmbeddedRedis | None = None
    url = settings.redis_url or running_stack(settings)
    if url is None:
        own = EmbeddedRedis(settings.state / "redis")
        own.start()
        url = own.url
    client = connect(url)
    try:
        yield RedisCache(client)
    finally:
        client.close()
        if own:
            own.stop()


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stats(as_json: bool) -> None:
    """How many answers, of whom, for how much."""
    with open_cache(settings_from_environment()) as answers:
        found = cache_stats(answers)
    click.echo(found.model_dump_json()) if as_json else _print(found)


def _print(found: CacheStats) -> None:
    table = Table("Teacher", "Model", "Answers", "Tokens in", "Tokens out", "US$", "Terms")
    for share in found.shares:
        tokens = (f"{share.input_tokens:,}", f"{share.output_tokens:,}")
        spent = f"{share.usd:,.4f}"
        table.add_row(share.teacher, share.model, f"{share.answers:,}", *tokens, spent, share.terms)
    console = Console()
    console.print(table)
    console.print(f"{found.answers:,} answers, {found.bytes / 2**20:,.1f} MB packed")
    if found.damaged:
        console.print(f"{found.damaged:,} entries cannot be read: finstill cache verify")


@cache.command()
@click.argument("file", type=click.Path(path_type=Path))
def export(file: Path) -> None:
    """Write every answer with its provenance to a Parquet FILE."""
    with open_cache(settings_from_environment()) as answers:
        count = export_cache(answers, file)
    click.echo(f"{count:,} answers written to {file}")


@cache.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
def import_(file: Path) -> None:
    """Bring back the answers of a Parquet FILE; those that are there already stay as they are."""
    with open_cache(settings_from_environment()) as answers:
        rows, new = import_cache(answers, file)
    click.echo(f"{new:,} answers imported, {rows - new:,} were there already")


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(as_json: bool) -> None:
    """Read every answer; exit code 1 when some are damaged."""
    with open_cache(settings_from_environment()) as answers:
        found = verify_cache(answers)
    if as_json:
        click.echo(found.model_dump_json())
    else:
        click.echo(f"{found.checked:,} answers read, {len(found.damaged):,} damaged")
    if found.damaged:
        raise FinstillError(
            f"damaged answers: {json.dumps(found.damaged[:5])}; `finstill cache drop --damaged` "
            "removes them, `finstill cache import FILE` brings them back from an export."
        )


@cache.command()
@click.option("--model", help="Answers of this model.")
@click.option("--teacher", help="Answers of the teacher of this name.")
@click.option("--damaged", is_flag=True, help="Answers that cannot be read any more.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(model: str | None, teacher: str | None, damaged: bool, yes: bool) -> None:
    """Throw answers away; asked again, they are paid again."""
    if not (model or teacher or damaged):
        raise UsageError("cache drop: say which: --model, --teacher or --damaged.")
    if not yes:
        click.confirm("These answers were paid for. Drop them?", abort=True)
    with open_cache(settings_from_environment()) as answers:
        count = drop_answers(answers, model=model, teacher=teacher, damaged=damaged)
    click.echo(f"{count:,} answers dropped")
