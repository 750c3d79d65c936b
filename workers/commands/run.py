"""finstill run: the whole job a config describes."""

from pathlib import Path

import click

from workers.commands.submission import run_until


@click.command(name="run")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--local", is_flag=True, help="Do all in this process, without queue and workers.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--detach", is_flag=True, help="Submit and return at once.")
def run(config: Path, overrides: tuple[str, ...], local: bool, as_json: bool, detach: bool) -> None:
    """
    Label, train, evaluate and report what CONFIG describes.

    \b
    finstill run configs/demo.yaml
    finstill run configs/demo.yaml training.epochs=2 seed=7
    Ctrl-C leaves the job running; `finstill jobs ID --watch` rejoins it.
    """
    run_until("report", config, overrides, local=local, as_json=as_json, detach=detach)
