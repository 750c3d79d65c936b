"""The last stage: every judged system of the run side by side, on a page."""

from workers.comparing import judge_runs, write_judgement
from workers.stages.context import StageContext


def write_report(context: StageContext) -> None:
    """report.parquet, report.json, report.md and report.html in the run's folder."""
    context.report(0, 1)
    write_judgement(context.run, judge_runs([(context.run, context.config)]))
    context.report(1, 1)
