"""The one stage of a comparison job: the runs it names side by side, on a page of its own."""

from common.config import ComparisonConfig
from workers.comparing import judge_runs, write_judgement
from workers.run_directory import RunDirectory, open_run
from workers.stages.context import Report
from workers.systems import Options


def compare_as_asked(directory: RunDirectory, config: ComparisonConfig, report: Report) -> None:
    """
    report.parquet, report.json, report.md and report.html in the comparison's folder.

    Raises InputError for runs that cannot be compared.
    """
    report(0, 1)
    runs = [open_run(directory.root.parent, name) for name in config.runs]
    options = Options(
        only=config.only,
        common=config.common,
        drop_leaked=config.drop_leaked,
        command=config.command,
    )
    write_judgement(directory, judge_runs(runs, options))
    report(1, 1)
