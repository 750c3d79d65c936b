"""finstill evaluate: everything up to the evaluations."""

from pathlib import Path

import click

from workers.commands.submission import run_until


@click.command(name="evaluate")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--local", is_flag=True, help="Do all in this process, without queue and workers.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--detach", is_flag=True, help="Submit and return at once.")
def evaluate(
    config: Path, overrides: tuple[str, ...], local: bool, as_json: bool, detach: bool
) -> None:
    """
    Judge every system of CONFIG on the test part; trains what is not trained yet.

    \b
    finstill evaluate configs/demo.yaml
    finstill evaluate configs/demo.yaml --json
    """
    run_until("evaluate", config, overrides, local=local, as_json=as_json, detach=detach)
