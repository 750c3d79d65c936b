"""finstill label: ask the teachers, nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from workers.commands.submission import run_until


@click.command(name="label")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--estimate", is_flag=True, help="Count rows, tokens and dollars; ask nothing.")
@click.option("--accept-volatile-cache", is_flag=True, help="Pay although answers may be lost.")
@click.option("--local", is_flag=True, help="Do all in this process, without queue and workers.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--detach", is_flag=True, help="Submit and return at once.")
def label(
    config: Path,
    overrides: tuple[str, ...],
    estimate: bool,
    accept_volatile_cache: bool,
    local: bool,
    as_json: bool,
    detach: bool,
) -> None:
    """
    Ask CONFIG's teachers for labels and rationales; every answer is cached and asked once.

    \b
    finstill label configs/demo.yaml
    finstill label configs/demo.yaml --estimate
    """
    if estimate:
        _estimate(config, overrides, as_json)
        return
    if accept_volatile_cache:
        overrides = (*overrides, "labelling.accept_volatile_cache=true")
    run_until("label", config, overrides, local=local, as_json=as_json, detach=detach)


def _estimate(path: Path, overrides: Sequence[str], as_json: bool) -> None:
    from common.config import load_config
    from workers.commands.cache import open_cache
    from workers.estimating import estimate_run
    from workers.services import settings_from_environment

    config = load_config(path, overrides)
    settings = settings_from_environment()
    with open_cache(settings) as cache:
        found = estimate_run(settings, config, cache)
    if as_json:
        click.echo(json.dumps([e.model_dump(mode="json") for e in found]))
        return
    table = Table(
        "Teacher", "Rows", "Cached", "To ask", "Tokens in", "US$ live", "US$ batch", "US$ at most",
        header_style="bold",
    )  # fmt: skip
    for e in found:
        money = (_dollars(e.usd_live), _dollars(e.usd_batch), _dollars(e.usd_at_most))
        counts = (e.rows, e.cached, e.to_ask, e.input_tokens)
        table.add_row(e.teacher, *(f"{count:,}" for count in counts), *money)
    Console().print(table)


def _dollars(amount: float | None) -> str:
    return "free" if amount is None else f"{amount:,.2f}"
