"""Tables for the terminal."""

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.errors import InputError
from common.evaluation.comparison import Comparison
from common.evaluation.render import terminal_rows
from workers.run_directory import RunDirectory

_NARROW = ("System", "Accuracy", "Macro F1", "Weighted F1")
_MIDDLE = (*_NARROW, "Unreadable", "Parameters", "Texts")
_WIDTHS = (100, 150)  # columns of the terminal from which more of the table fits


def print_report(console: Console, run: RunDirectory) -> None:
    """
    A finished run's verdicts and table, and where its report lies.

    Raises InputError for a report that another version wrote.
    """
    try:
        comparison = Comparison.model_validate_json(run.report("json").read_bytes())
    except ValidationError as error:
        raise InputError(
            f"{run.report('json')} was written by another version of finstill; "
            f"`finstill compare {run.run_id}` compares anew."
        ) from error
    print_comparison(console, comparison)
    console.print(f"\nReport: {run.report('html')}", soft_wrap=True, highlight=False)


def print_comparison(console: Console, comparison: Comparison) -> None:
    """The table, then the headline and one sentence for each comparison."""
    headers, rows = terminal_rows(comparison)
    fits = _NARROW if console.width < _WIDTHS[0] else _MIDDLE
    shown = [i for i, name in enumerate(headers) if console.width >= _WIDTHS[1] or name in fits]
    title = f"{comparison.dataset}: {comparison.n:,} texts, 95 % intervals"
    table = Table(title=title, title_justify="left", header_style="bold", padding=(0, 1))
    for position in shown:
        if position == 0:
            table.add_column(headers[position], min_width=24)
        else:
            table.add_column(headers[position], justify="right")
    for row in rows:
        table.add_row(*(escape(row[i].replace(" [", "\n[")) for i in shown))
    console.print()
    console.print(table)
    console.print(comparison.headline, style="bold", soft_wrap=True, highlight=False, markup=False)
    for verdict in comparison.verdicts:
        console.print(f"- {verdict}", soft_wrap=True, highlight=False, markup=False)
