"""The one stage of a comparison job: the runs it names side by side, on a page of its own."""

from collections.abc import Callable

from common.config import ComparisonConfig
from common.errors import JobCancelled
from workers.comparing import judge_runs, write_judgement
from workers.run_directory import RunDirectory, open_run
from workers.stages.context import Report
from workers.systems import Options


def compare_as_asked(
    directory: RunDirectory,
    config: ComparisonConfig,
    report: Report,
    cancelled: Callable[[], bool],
) -> None:
    """
    report.parquet, report.json, report.md and report.html in the comparison's folder.

    Raises InputError for runs that cannot be compared, and JobCancelled.
    """
    report(0, 1)
    runs = [open_run(directory.root.parent, name) for name in config.runs]
    options = Options(
        only=config.only,
        common=config.common,
        drop_leaked=config.drop_leaked,
        command=config.command,
    )
    judgement = judge_runs(runs, options)
    if cancelled():
        raise JobCancelled("the comparison was stopped; an earlier report stays.")
    write_judgement(directory, judgement)
    report(1, 1)
