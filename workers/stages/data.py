"""The first stage: the data set is read, checked and split."""

from collections.abc import Iterator

from common.data.prepare import prepare
from common.data.store import read_records, write_records
from common.records import Example
from workers.run_directory import RunDirectory, write_json
from workers.stages.context import StageContext


def prepare_data(context: StageContext) -> None:
    """Write the three parts, and train + validation in one file for the teachers to label."""
    run, config = context.run, context.config
    context.report(0, 1)
    split = prepare(config.data, context.task, config.seed, run.data)
    rows = write_records(run.part("to_label"), _to_label(run), Example)
    write_json(run.split_file, {**split.model_dump(mode="json"), "to_label": rows})
    context.report(1, 1, info={"rows": rows})


def _to_label(run: RunDirectory) -> Iterator[Example]:
    """The validation part is for early stopping, so a teacher labels it as well; never the test."""
    for part in ("train", "validation"):
        yield from read_records(run.part(part), Example)
