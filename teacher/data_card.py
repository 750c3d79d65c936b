"""The page beside a labelled set: who labelled it, how well, at what cost, on what terms."""

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence

from common.config.teacher import ClaudeTeacher, RecordedTeacher, TeacherConfig, VllmTeacher
from common.records import Interval, Record
from common.task import TaskDefinition
from teacher.agreement import TeacherFigures, TeachersReport
from teacher.build import bind_prompt
from teacher.terms import Terms, terms_of


class Origin(Record):
    """Where one teacher's answers come from, as configured. Recorded answers know no prompt."""

    teacher: str
    how: str
    models: list[str]
    prompt: str | None
    rationale: str
    samples: int


class CardFacts(Record):
    """What the card is written from, beside the teachers' figures."""

    title: str
    task: str
    data: str
    data_fingerprint: str
    licences: list[str]
    collected: datetime.date
    counts: dict[str, dict[str, int]]
    kept: int
    dropped: dict[str, int]
    with_rationale: int
    origins: list[Origin]


def origin_of(
    config: TeacherConfig, teacher: str, models: Sequence[str], task: TaskDefinition
) -> Origin:
    """What a configuration says of where answers come from."""
    bound = bind_prompt(config, task)
    prompt = f"{bound.prompt.name} v{bound.prompt.version}, {bound.fingerprint[:16]}"
    match config:
        case RecordedTeacher():
            how, asked = f"recorded in {config.answers.name}", None
        case ClaudeTeacher():
            how, asked = f"Anthropic API, {config.mode}", prompt
        case VllmTeacher():
            how, asked = f"vLLM, {config.engine}, temperature {config.temperature:g}", prompt
    return Origin(
        teacher=teacher,
        how=how,
        models=list(models),
        prompt=asked,
        rationale=config.rationale,
        samples=config.samples,
    )


def render_card(facts: CardFacts, report: TeachersReport) -> str:
    """The card as Markdown."""
    return "\n".join([*_head(facts), *teachers_section(report), *_tail(facts)]) + "\n"


def teachers_section(report: TeachersReport) -> list[str]:
    """The tables on accuracy, cost, agreement and what each teacher added, as Markdown lines."""
    lines = ["", "## Teachers", "", *_table(_TEACHER_COLUMNS, map(_teacher_row, report.teachers))]
    lines += ["", *_notes(report)]
    if report.pairs:
        rows = (
            [pair.first, pair.second, f"{pair.texts:,}", _percent(pair.agreed), _kappa(pair.kappa)]
            for pair in report.pairs
        )
        columns = ("teacher", "teacher", "texts", "agree", "Cohen's κ")
        lines += ["", "## Agreement", "", *_table(columns, rows)]
    return [*lines, *_added(report), *_confusions(report)]


_TEACHER_COLUMNS = (
    "teacher", "texts", "answers", "unusable", "sure", "accuracy on gold [95 %]",
    "… sure / unsure", "learned accuracy", "cost of answers", "paid by this run",
)  # fmt: skip


def _teacher_row(figures: TeacherFigures) -> list[str]:
    unusable = sum(figures.unanswered.values())
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in figures.unanswered.items())
    return [
        figures.teacher,
        f"{figures.texts:,}",
        f"{figures.answers:,}",
        f"{unusable:,} ({reasons})" if unusable else "0",
        _percent(figures.sure_share),
        _interval(figures.accuracy),
        f"{_percent(_value(figures.accuracy_sure))} / {_percent(_value(figures.accuracy_unsure))}",
        _percent(figures.learned_accuracy),
        _usd(figures.usd),
        _usd(figures.usd_paid),
    ]


def _notes(report: TeachersReport) -> Iterator[str]:
    of = f" in an even sample of {report.sampled:,} texts" if report.sampled < report.texts else ""
    yield f"Aggregation: {report.kind}. Gold judged {report.judged:,} texts{of}."
    if report.accuracy:
        yield f"The aggregated label is right on {_interval(report.accuracy)} of them."
    if report.probe_rows:
        yield (
            f"Accuracies were learned with {report.probe_rows:,} gold texts of the training part, "
            "which therefore judge nobody."
        )
    yield (
        "Sure: all samples agree, and the stated probability is high enough. Learned accuracy: "
        "estimated without the gold that judges. Intervals: Wilson."
    )


def _added(report: TeachersReport) -> list[str]:
    if report.accuracy is None:
        return []
    whole = report.accuracy.value
    rows = [
        [
            figures.teacher,
            _percent(whole),
            _percent(figures.accuracy_without),
            f"{100 * (whole - figures.accuracy_without):+.2f}",
            f"{figures.unlabelled_without or 0:,}",
        ]
        for figures in report.teachers
        if figures.accuracy_without is not None
    ]
    columns = ("teacher", "aggregate with", "without", "added, points", "texts without a label")
    return ["", "## What each teacher added", "", *_table(columns, rows)] if rows else []


def _confusions(report: TeachersReport) -> list[str]:
    lines: list[str] = []
    for figures in report.teachers:
        if figures.confusion:
            rows = [
                [name, *(f"{count:,}" for count in counts)]
                for name, counts in zip(report.labels, figures.confusion, strict=True)
            ]
            title = f"### {figures.teacher}: gold (rows) by answer (columns)"
            lines += ["", title, "", *_table(("", *report.labels), rows)]
    return lines


def _head(facts: CardFacts) -> Iterator[str]:
    yield f"# {facts.title}"
    yield ""
    yield f"Task: {facts.task}. Texts: {facts.data}, fingerprint `{facts.data_fingerprint[:16]}`."
    yield (
        f"Collected {facts.collected}: {facts.kept:,} texts with a label, "
        f"{facts.with_rationale:,} of them with a rationale."
    )
    yield ""
    labels = list(dict.fromkeys(name for counts in facts.counts.values() for name in counts))
    rows = (
        [part, *(f"{counts.get(name, 0):,}" for name in labels), f"{sum(counts.values()):,}"]
        for part, counts in facts.counts.items()
    )
    yield from _table(("part", *labels, "all"), rows)
    yield ""
    yield "## Dropped rows"
    yield ""
    dropped = [[reason, f"{count:,}"] for reason, count in facts.dropped.items()]
    yield from _table(("reason", "texts"), dropped) if dropped else ["None."]


def _tail(facts: CardFacts) -> Iterator[str]:
    yield from ("", "## Where the answers come from", "")
    columns = ("teacher", "source", "models that answered", "prompt", "rationale", "samples")
    yield from _table(columns, (_origin_row(origin) for origin in facts.origins))
    yield from ("", "## Licence and terms", "")
    for licence in facts.licences or [f"{facts.data}: the licence of the source applies."]:
        yield f"- Texts: {licence}"
    for origin in facts.origins:
        yield f"- {origin.teacher}: {terms_line([origin.teacher, *origin.models])}"


def _origin_row(origin: Origin) -> list[str]:
    terms = terms_of([origin.teacher, *origin.models])
    models = [_with_lifecycle(model, terms) for model in origin.models]
    return [
        origin.teacher,
        origin.how,
        ", ".join(models) or "not reported",
        origin.prompt or "not recorded",
        origin.rationale,
        str(origin.samples),
    ]


def terms_line(names: Sequence[str]) -> str:
    """What the table of terms says of a teacher, as one line."""
    terms = terms_of(names)
    if terms is None:
        return "configs/terms.yaml has no entry; find out whether its outputs may train models."
    use = {"allowed": "training allowed", "conditions": "training under conditions"}.get(
        terms.training, "for comparison only"
    )
    line = f"{terms.service} ({use}): {terms.says} Source: {terms.source}, read {terms.read_on}."
    if terms.name_begins_with:
        line += f' A distributed model is called "{terms.name_begins_with}…".'
    return line


def _with_lifecycle(model: str, terms: Terms | None) -> str:
    known: Mapping[str, str] = terms.lifecycle if terms else {}
    return f"{model} ({known[model]})" if model in known else model


def _table(columns: Sequence[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + " --- |" * len(columns)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "–"  # noqa: RUF001
    return f"{_percent(interval.value)} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _value(interval: Interval | None) -> float | None:
    return interval.value if interval else None


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"  # noqa: RUF001


def _kappa(kappa: float | None) -> str:
    return "–" if kappa is None else f"{kappa:.3f}"  # noqa: RUF001


def _usd(usd: float) -> str:
    return f"${usd:.4f}" if 0 < usd < 1 else f"${usd:,.2f}"
