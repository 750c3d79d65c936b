"""finstill label: ask the teachers, nothing else."""

from pathlib import Path

import click

from workers.commands.submission import run_until


@click.command(name="label")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--local", is_flag=True, help="Do all in this process, without queue and workers.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--detach", is_flag=True, help="Submit and return at once.")
def label(
    config: Path, overrides: tuple[str, ...], local: bool, as_json: bool, detach: bool
) -> None:
    """
    Ask CONFIG's teachers for labels and rationales; every answer is cached and asked once.

    \b
    finstill label configs/demo.yaml
    """
    run_until("label", config, overrides, local=local, as_json=as_json, detach=detach)
