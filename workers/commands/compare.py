"""finstill compare: systems of one or several runs side by side."""

import shlex
import sys
from pathlib import Path

import click
from rich.console import Console

from common.config import load_data
from common.errors import UsageError
from common.evaluation.comparison import Comparison
from workers.run_directory import RunDirectory, open_run, write_text
from workers.services import apply_thread_environment, settings_from_environment

GATE_FAILED = 3


@click.command(name="compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--only", multiple=True, metavar="SYSTEM", help="Keep systems of this name.")
@click.option("--common", is_flag=True, help="Judge the texts that all test parts share.")
@click.option(
    "--on",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="Judge on another labelled data set: a data YAML, or a run's.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a value of --on, e.g. path=tweets.csv.",
)
@click.option(
    "--drop-leaked",
    is_flag=True,
    help="Leave out, and count, texts that a run has seen in training.",
)
@click.option(
    "--teacher",
    multiple=True,
    metavar="NAME=FILE",
    help="A teacher's recorded answers to the judged texts (JSONL or Parquet, by id).",
)
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="NAME=FILE",
    help="Another system's answers: rows with id and label, or raw for generated text.",
)
@click.option(
    "--format", "form", default="table", type=click.Choice(["table", "md", "json", "html", "all"])
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write there instead of printing; a folder for --format all.",
)
@click.option("--fail-if-worse", metavar="BASELINE", help="Exit 3 if the student is behind it.")
def compare(
    runs: tuple[str, ...], only: tuple[str, ...], common: bool, on: Path | None,
    overrides: tuple[str, ...], drop_leaked: bool, teacher: tuple[str, ...],
    others: tuple[str, ...], form: str, out: Path | None, fail_if_worse: str | None,
) -> None:  # fmt: skip
    """
    Compare the judged systems of one or several runs on the same texts.

    A run is never judged on texts that it, or its teacher's prompt, has seen.

    \b
    finstill compare demo-1a2b3c
    finstill compare RUN_A RUN_B --only student --format html --out report.html
    finstill compare RUN --on configs/data/tfns.yaml --set path=sent_valid.csv
    finstill compare RUN_A RUN_B --format all --out comparison
    finstill compare RUN --teacher claude=answers.jsonl --with fingpt=generated.jsonl
    finstill compare RUN --format md --fail-if-worse tfidf
    """
    from common.evaluation.gate import is_behind, stand_ins
    from workers.comparing import judge_runs, write_judgement
    from workers.outside import outside_of
    from workers.systems import Options

    if overrides and on is None:
        raise UsageError("--set changes the data config of --on; give --on as well.")
    settings = settings_from_environment()
    apply_thread_environment(settings)
    data = load_data(on, overrides) if on else None
    words = ["finstill", "compare", *runs]
    words += [word for name in only for word in ("--only", name)]
    words += ["--common"] if common else []
    words += ["--on", str(on), *(w for each in overrides for w in ("--set", each))] if on else []
    words += ["--drop-leaked"] if drop_leaked else []
    words += [word for each in teacher for word in ("--teacher", each)]
    words += [word for each in others for word in ("--with", each)]
    outside = [outside_of(w, "teacher") for w in teacher] + [outside_of(w, "with") for w in others]
    options = Options(only, common, data, drop_leaked, shlex.join(words), outside)
    opened = [open_run(settings.runs, run) for run in runs]
    if form == "all" and out is None:
        raise UsageError("--format all writes four files; name their folder with --out.")
    judgement = judge_runs(opened, options, settings)
    comparison = judgement.comparison
    if form == "all" and out is not None:
        write_judgement(RunDirectory(out), judgement)
        click.echo(f"written: {out}/report.html, report.md, report.json, report.parquet")
    else:
        _show(comparison, form, out)
    if fail_if_worse:
        for told in stand_ins(comparison, fail_if_worse):
            click.echo(f"--fail-if-worse: {told}", err=True)
        if is_behind(comparison, fail_if_worse):
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
