"""
What it brings to ask several teachers: every way to combine recorded answers, against gold.

    python -m benchmarks.aggregation --gold fpb.jsonl \\
        --cheap mixtral_gpt4_llama_fpb_train.jsonl --cheap-teacher mixtral-8x7b-instruct-v0.1 \\
        --dear claude_fpb_train.jsonl --dear-teacher claude

Judged are the texts that both teachers were asked. Gold only judges; rows "with probe" are means
over draws of so many gold texts to learn from, which are then left out of the judging. Answers
pass through the product's reader: a reason that names another label makes an answer unusable. A
text without a label counts as wrong.
"""

import argparse
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config.teacher import Aggregation, LabellingConfig, RecordedTeacher
from common.records import Example
from common.task import TaskDefinition, load_task
from teacher.aggregate import Aggregated, Dropped, aggregate, learning_model
from teacher.agreement import judge_teachers, wilson
from teacher.build import TeacherSettings, build_teacher
from teacher.cascade import rows_for_next
from teacher.data_card import teachers_section
from teacher.dawid_skene import learn_reliability
from teacher.labelling import label_examples
from teacher.services import local_services
from teacher.survey import Survey
from teacher.votes import AnyAnswer, ballots, in_row_order, unsure

Results = Sequence[Aggregated | Dropped]
TASK = load_task("sentiment")
LABELLING = LabellingConfig(smoke_rows=0, repair=False)


@dataclass(frozen=True)
class Asked:
    """The texts with gold, and each teacher's answers to all of them."""

    examples: list[Example]
    gold: dict[str, str]
    cheap: list[AnyAnswer]
    dear: list[AnyAnswer]
    names: list[str]


def main() -> None:
    """Print the tables as Markdown."""
    options = arguments()
    asked = ask(options)
    print(f"{len(asked.examples)} texts; cheap: {asked.names[0]}, dear: {asked.names[1]}\n")
    print("| system | right [95 %] | of | log loss | dear teacher asked |")
    print("| --- | --- | --- | --- | --- |")
    one = [answer for answer in asked.cheap if answer.sample == 0]
    show(asked, "dear alone", combine(asked.dear, "single", asked.names[1:]), 1.0)
    show(asked, "cheap, one sample", combine(one, "single", asked.names[:1]), 0.0)
    show(asked, "cheap, vote of its samples", combine(asked.cheap, "single", asked.names[:1]), 0.0)
    both = in_row_order([*asked.cheap, *asked.dear])
    for kind in ("vote", "weighted", "dawid_skene"):
        show(asked, kind, combine(both, kind, asked.names), 1.0)
        if kind != "vote":
            with_probe(asked, both, kind, options)
    cascade(asked, one, "cascade, one sample")
    cascade(asked, asked.cheap, "cascade, all samples")
    unanimity(asked)
    print("\n".join(teachers_tables(asked, both)))


def arguments() -> argparse.Namespace:
    """Files and names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--gold", type=Path, required=True, help="JSONL: id, sentence, label")
    parser.add_argument("--cheap", type=Path, required=True)
    parser.add_argument("--cheap-teacher", required=True)
    parser.add_argument("--cheap-samples", type=int, default=3)
    parser.add_argument("--dear", type=Path, required=True)
    parser.add_argument("--dear-teacher", required=True)
    parser.add_argument("--probe-rows", type=int, default=64)
    parser.add_argument("--probe-draws", type=int, default=20)
    return parser.parse_args()


def ask(options: argparse.Namespace) -> Asked:
    """Both teachers through the product's own loop."""
    rows = read_lines(options.gold)
    known = ids(options.cheap, options.cheap_teacher) & ids(options.dear, options.dear_teacher)
    examples = [
        Example(id=row["id"], text=row["sentence"], label=row["label"])
        for row in rows
        if row["id"] in known
    ]
    gold = {example.id: str(example.label) for example in examples}
    cheap = answers(options.cheap, options.cheap_teacher, options.cheap_samples, examples, TASK)
    dear = answers(options.dear, options.dear_teacher, 1, examples, TASK)
    return Asked(examples, gold, cheap, dear, [options.cheap_teacher, options.dear_teacher])


def ids(path: Path, teacher: str) -> set[str]:
    """The texts that a teacher of a file was asked."""
    return {row["fpb_id"] for row in read_lines(path) if row["teacher"] == teacher}


def read_lines(path: Path) -> list[dict[str, str]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answers(
    path: Path, teacher: str, samples: int, examples: Sequence[Example], task: TaskDefinition
) -> list[AnyAnswer]:
    """What the product makes of a recorded file."""
    config = RecordedTeacher(
        kind="recorded", answers=path, only={"teacher": teacher}, samples=samples
    )
    built = build_teacher(config, task, TeacherSettings())
    return label_examples(examples, built, LABELLING, local_services())


def combine(
    given: Sequence[AnyAnswer],
    kind: str,
    teachers: Sequence[str],
    gold: Mapping[str, str] | None = None,
) -> Results:
    """One kind of aggregation."""
    config = Aggregation.model_validate({"kind": kind})
    return list(aggregate(given, TASK, config, teachers, gold))


def show(asked: Asked, title: str, results: Results, dear_share: float) -> None:
    """One line of the table."""
    right = [isinstance(r, Aggregated) and r.label == asked.gold[r.example_id] for r in results]
    interval = wilson(sum(right), len(right))
    assert interval is not None
    figure = f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
    loss = log_loss(asked, results)
    print(f"| {title} | {figure} | {len(right)} | {loss} | {dear_share:.1%} |")


def log_loss(asked: Asked, results: Results) -> str:
    """Mean over the texts with probabilities, in nats; those of 0 count as 0.000001."""
    odds = [
        r.probabilities[asked.gold[r.example_id]]
        for r in results
        if isinstance(r, Aggregated) and r.probabilities
    ]
    if not odds:
        return "-"
    return f"{-sum(math.log(max(p, 1e-6)) for p in odds) / len(odds):.3f}"


def with_probe(
    asked: Asked, both: Sequence[AnyAnswer], kind: str, options: argparse.Namespace
) -> None:
    """Mean accuracy over draws of the probe, each judged on the other texts."""
    shares = []
    for draw in range(options.probe_draws):
        chosen = random.Random(draw).sample(sorted(asked.gold), options.probe_rows)
        probe = {name: asked.gold[name] for name in chosen}
        judged = [
            isinstance(r, Aggregated) and r.label == asked.gold[r.example_id]
            for r in combine(both, kind, asked.names, probe)
            if r.example_id not in probe
        ]
        shares.append(sum(judged) / len(judged))
    title = f"{kind}, probe of {options.probe_rows}, mean of {len(shares)} draws"
    span = f"{sum(shares) / len(shares):.4f} (draws {min(shares):.4f} to {max(shares):.4f})"
    print(f"| {title} | {span} | {len(asked.gold) - options.probe_rows} | - | 100.0% |")


def cascade(asked: Asked, cheap: Sequence[AnyAnswer], title: str) -> None:
    """The dear teacher on those texts alone that the product would send to it."""
    config = Aggregation(kind="cascade")
    chosen = {example.id for example in rows_for_next(asked.examples, cheap, config)}
    dear = [answer for answer in asked.dear if answer.example_id in chosen]
    results = combine(in_row_order([*cheap, *dear]), "cascade", asked.names)
    show(asked, title, results, len(chosen) / len(asked.examples))


def unanimity(asked: Asked) -> None:
    """How far the cheap teacher's own agreement tells right from wrong."""
    counts = {True: [0, 0], False: [0, 0]}
    for ballot in ballots(asked.cheap):
        agreed = not unsure(ballot.answers, 0.0)
        opinion = ballot.opinions(asked.names, TASK.label_names, 0.0).get(asked.names[0])
        counts[agreed][0] += opinion is not None and opinion.label == asked.gold[ballot.example_id]
        counts[agreed][1] += 1
    for agreed, name in ((True, "all usable and agree"), (False, "otherwise")):
        right, texts = counts[agreed]
        print(f"\ncheap samples {name}: {right} of {texts} right ({right / texts:.1%})", end="")
    print()


def teachers_tables(asked: Asked, both: Sequence[AnyAnswer]) -> list[str]:
    """The product's own figures on the teachers, learned without gold."""
    config = Aggregation(kind="weighted", learn_from="agreement")
    survey = Survey(TASK.label_names, config)
    for ballot in ballots(both):
        survey.add(ballot, asked.gold[ballot.example_id])
    reliability = learn_reliability(survey.table(), learning_model(config))
    return teachers_section(judge_teachers(survey, config, reliability))


if __name__ == "__main__":
    main()
