"""From answers to training pairs: one label a text, the rows without one counted by reason."""

from collections.abc import Iterable, Iterator

from common.data.store import read_records, write_records
from common.records import Answer, Example, TrainingPair
from workers.run_directory import write_json
from workers.stages.context import StageContext

PARTS = ("train", "validation")


def collect_pairs(context: StageContext) -> None:
    """
    Write the pairs of each part, labelled by the teachers and, where there is gold, by it.

    Gold pairs have no rationale. What could not be used is counted in labels/summary.json.
    Raises UsageError where a teacher's terms forbid to train on its answers.
    """
    context.report(0, 1)
    summary: dict[str, object] = {}
    if context.config.all_teachers:
        from workers.collecting import collect_labels
        from workers.stages.labels import all_answers

        write_records(context.run.answers, all_answers(context), Answer)
        summary = collect_labels(context.run, context.config, context.task)
    for part in PARTS:
        gold = _gold_pairs(read_records(context.run.part(part), Example))
        write_records(context.run.pairs(part, "gold"), gold, TrainingPair)
    write_json(context.run.labels_summary, summary)
    context.report(1, 1)


def _gold_pairs(examples: Iterable[Example]) -> Iterator[TrainingPair]:
    for example in examples:
        if example.label is not None:
            yield TrainingPair(example_id=example.id, text=example.text, label=example.label)
