"""finstill demo: the whole job on the shipped corpus."""

import click
from rich.console import Console

from common.task import CONFIGS
from workers.commands.submission import run_until


@click.command(name="demo")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--local", is_flag=True, help="Do all in this process, without queue and workers.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def demo(overrides: tuple[str, ...], local: bool, as_json: bool) -> None:
    """
    900 sentences, a recorded Claude teacher, a tiny student and its baselines, judged on 300.

    \b
    finstill demo
    finstill demo training.rationale_weight=0
    """
    run = run_until("report", CONFIGS / "demo.yaml", overrides, local=local, as_json=as_json)
    if as_json:
        return
    Console().print(
        "\nThe students here are tiny and start from random weights: this shows the plumbing, not "
        "what distillation can do.\n\n"
        "Try next:\n"
        f'  finstill predict {run.run_id} "Operating profit doubled to EUR 12 million." '
        "--rationale\n"
        "  finstill run configs/demo.yaml training.rationale_weight=0   # the label-only twin\n"
        "  finstill run configs/fpb/minilm-claude.yaml data.path=FOLDER teacher.answers=FILE "
        "student.model=FOLDER\n"
        "  finstill doctor                                              # what this machine can do",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
