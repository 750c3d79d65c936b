"""finstill compare: systems of one or several runs side by side."""

import sys
from pathlib import Path

import click
from rich.console import Console

from common.errors import InputError
from common.evaluation.comparison import Comparison
from workers.run_directory import open_run, write_text
from workers.services import settings_from_environment

GATE_FAILED = 3


@click.command(name="compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--only", multiple=True, metavar="SYSTEM", help="Keep systems of this name.")
@click.option(
    "--format", "form", default="table", type=click.Choice(["table", "md", "json", "html"])
)
@click.option("--out", type=click.Path(path_type=Path), help="Write there instead of printing.")
@click.option("--fail-if-worse", metavar="BASELINE", help="Exit 3 if the student is behind it.")
def compare(
    runs: tuple[str, ...], only: tuple[str, ...], form: str, out: Path | None,
    fail_if_worse: str | None,
) -> None:  # fmt: skip
    """
    Compare the judged systems of one or several runs on the same texts.

    \b
    finstill compare demo-1a2b3c
    finstill compare RUN_A RUN_B --only student --format html --out report.html
    finstill compare RUN --format md --fail-if-worse tfidf
    """
    from workers.comparing import compare_runs

    settings = settings_from_environment()
    comparison = compare_runs([open_run(settings.runs, run) for run in runs], only)
    _show(comparison, form, out)
    if fail_if_worse and _is_behind(comparison, fail_if_worse):
        sys.exit(GATE_FAILED)


def _show(comparison: Comparison, form: str, out: Path | None) -> None:
    from common.evaluation.render import render_html, render_markdown

    if form == "table" and out is None:
        from workers.commands.tables import print_comparison

        print_comparison(Console(), comparison)
        return
    if form == "json":
        text = comparison.model_dump_json(indent=1)
    elif form == "html":
        text = render_html(comparison)
    else:
        text = render_markdown(comparison)
    if out is None:
        click.echo(text)
    else:
        write_text(out, text + "\n")
        click.echo(f"written: {out}")


def _is_behind(comparison: Comparison, baseline: str) -> bool:
    """Whether the reference is behind the baseline after correction. Raises InputError."""
    names = [report.system.name for report in comparison.systems]
    wanted = [n for n in names if n == baseline or n.rpartition("/")[2] == baseline]
    if len(wanted) != 1 or wanted[0] == comparison.reference:
        raise InputError(
            f"--fail-if-worse: '{baseline}' is not one other system; there: {', '.join(names)}."
        )
    pair = next(
        p for p in comparison.pairs if {p.first, p.second} == {comparison.reference, wanted[0]}
    )
    behind = "second_ahead" if pair.first == comparison.reference else "first_ahead"
    return pair.outcome == behind
