"""The last stage: every judged system of the run side by side, on a page."""

from workers.comparing import compare_runs, write_comparison
from workers.stages.context import StageContext


def write_report(context: StageContext) -> None:
    """report.json, report.md and report.html in the run's folder."""
    context.report(0, 1)
    write_comparison(context.run, compare_runs([(context.run, context.config)]))
    context.report(1, 1)
