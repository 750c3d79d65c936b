"""The comparison of runs whose test parts are too large to be held as records."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.data.store import count_records, read_columns
from common.errors import InputError
from common.evaluation.comparison import Comparison
from common.evaluation.files import JudgedFile, compare_files, evaluate_file, without_rows
from common.task import load_task
from workers.judged_texts import refuse_other_texts
from workers.leak_guard import dropped_note, find_leaks, leak_notes, refuse_leaks
from workers.provenance import context_of
from workers.run_directory import Run, read_json
from workers.systems import Options, System


def compare_large(runs: Sequence[Run], systems: Sequence[System], options: Options) -> Comparison:
    """
    `compare_runs` column by column from the runs' own files: a million texts in 2 GB.

    Raises InputError as it does, and for `common`, which needs the texts in memory.
    """
    directory, config = runs[0]
    rows = count_records(directory.part("test"))
    if options.common:
        raise InputError(f"--common compares records in memory; {rows:,} test texts are too many.")
    if options.outside:
        raise InputError(f"--with and --teacher are read into memory; {rows:,} texts are too many.")
    refuse_other_texts(runs)
    leaks = find_leaks(runs, list(read_columns(directory.part("test"), "id", "text")), own=True)
    task, settings = load_task(config.task), config.evaluation
    near = read_json(directory.split_file)["near_duplicates"]["ids"]
    if not (options.drop_leaked and leaks):
        refuse_leaks(leaks, rows)
        name = systems[0].report.data_fingerprint
        judged = [JudgedFile(s.report_on(name), s.run[0].predictions(s.name)) for s in systems]
        context = context_of(runs, options, leak_notes(leaks))
        return compare_files(
            judged, directory.part("test"), task, settings, context=context, near_duplicates=near
        )
    ids = {row_id for leak in leaks for row_id in leak.ids}
    context = context_of(runs, options, [dropped_note(leaks, len(ids), rows)])
    with tempfile.TemporaryDirectory() as folder:
        gold = without_rows(directory.part("test"), "id", ids, Path(folder) / "gold.parquet")
        judged = []
        for number, system in enumerate(systems):
            kept = Path(folder) / f"{number}.parquet"
            without_rows(system.run[0].predictions(system.name), "example_id", ids, kept)
            report = system.report
            report = evaluate_file(
                report.system, gold, kept, task, settings, report.dataset,
                f"{report.data_fingerprint} without {len(ids)}", near_duplicates=near,
            )  # fmt: skip
            judged.append(JudgedFile(report, kept))
        return compare_files(judged, gold, task, settings, context=context, near_duplicates=near)
