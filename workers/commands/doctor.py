"""finstill doctor: what this installation can do, and what each missing thing would allow."""

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from workers.diagnosis import diagnose
from workers.services import settings_from_environment

_MARK = {"ok": "[green]✓[/]", "absent": "[yellow]-[/]", "bad": "[red]✗[/]"}


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """
    Check Redis, workers, keys, GPU, disk and versions. Exit code 1 when something is broken.

    \b
    finstill doctor
    """
    findings = diagnose(settings_from_environment())
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table("", "What", "Found", "It would allow / what to do", header_style="bold")
        for finding in findings:
            table.add_row(_MARK[finding.state], finding.what, finding.found, finding.advice)
        Console().print(table)
    if any(finding.state == "bad" for finding in findings):
        raise SystemExit(1)
