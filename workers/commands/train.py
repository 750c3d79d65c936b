"""finstill train: everything up to the trained students."""

from pathlib import Path

import click

from workers.commands.submission import run_until


@click.command(name="train")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--local", is_flag=True, help="Do all in this process, without queue and workers.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--detach", is_flag=True, help="Submit and return at once.")
def train(
    config: Path, overrides: tuple[str, ...], local: bool, as_json: bool, detach: bool
) -> None:
    """
    Train every system of CONFIG as worker tasks; labels first where they are missing.

    \b
    finstill train configs/demo.yaml
    finstill train configs/demo.yaml training.rationale_weight=0.5 --detach
    """
    run_until("train", config, overrides, local=local, as_json=as_json, detach=detach)
