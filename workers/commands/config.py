"""finstill config: what a file and its overrides resolve to."""

import json
from pathlib import Path

import click

from common.config import load_config
from common.task import load_task
from workers.graph import stages_of


@click.command(name="config")
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
def config(config_file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """
    Check CONFIG and print it with every default filled in, its run id and its stages.

    \b
    finstill config configs/demo.yaml training.epochs=1
    """
    import yaml

    resolved = load_config(config_file, overrides)
    load_task(resolved.task)
    tree = {
        "run_id": resolved.run_id,
        "stages": list(stages_of(resolved)),
        "config": resolved.model_dump(mode="json"),
    }
    click.echo(json.dumps(tree) if as_json else yaml.safe_dump(tree, sort_keys=False), nl=as_json)
