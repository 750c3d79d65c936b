"""The first stage: the data set is read, checked and split, and people's corrections applied."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from common.data.prepare import PARTS, prepare
from common.data.report import SplitReport
from common.data.store import read_records, write_records
from common.fingerprint import digest
from common.records import Example
from workers.corrections import corrected
from workers.leak_guard import refuse_shown_texts
from workers.run_directory import RunDirectory, write_json
from workers.stages.context import StageContext


def prepare_data(context: StageContext) -> None:
    """Write the three parts, and train + validation in one file for the teachers to label."""
    run, config = context.run, context.config
    context.report(0, 1)
    split = prepare(config.data, context.task, config.seed, run.data)
    tree = _with_corrections(run, split) if run.corrections else split.model_dump(mode="json")
    refuse_shown_texts(run, config)
    rows = write_records(run.part("to_label"), _to_label(run), Example)
    write_json(run.split_file, {**tree, "to_label": rows})
    context.report(1, 1, info={"rows": rows})


def _with_corrections(run: RunDirectory, split: SplitReport) -> dict[str, Any]:
    """
    Corrected labels as gold, once every row has its part: no correction moves a row.

    Other gold is another data set: its fingerprint changes, so that reports on the two are not
    compared as if they were one.
    """
    tree, labels = split.model_dump(mode="json"), run.corrections
    changed: list[tuple[str, str, str | None]] = []

    def rows(part: str, said: "Counter[str | None]") -> Iterator[Example]:
        for before in read_records(run.part(part), Example):
            after = corrected(before, labels)
            said[after.label] += 1
            if after != before:
                changed.append((part, after.id, after.label))
            yield after

    for part in PARTS:
        said: Counter[str | None] = Counter()
        write_records(run.part(part), rows(part, said), Example)  # replaced when read to its end
        counts = {name: said[name] for name in tree["parts"][part]["labels"]}
        tree["parts"][part].update(labels=counts, unlabelled=said[None])
    if changed:
        tree["fingerprint"] = digest([tree["fingerprint"], changed])
        tree["corrected"] = dict(Counter(part for part, _, _ in changed))
    return tree


def _to_label(run: RunDirectory) -> Iterator[Example]:
    """The validation part is for early stopping, so a teacher labels it as well; never the test."""
    for part in ("train", "validation"):
        yield from read_records(run.part(part), Example)
