"""A comparison as Markdown, as rows for the terminal, and (common/evaluation/page.py) as HTML."""

from common.evaluation import formats
from common.evaluation.all_metrics import labels_table, metrics_table
from common.evaluation.comparison import Comparison, PairComparison
from common.evaluation.page import render_html
from common.evaluation.rationales import ENCODED
from common.evaluation.remarks import WITHOUT_ENCODER, measured_on, teacher_remarks
from common.evaluation.table import parts_table, table_of
from common.evaluation.verdicts import corrected_p, display_name, p_value, signed_points
from common.records import EvaluationReport

__all__ = ["render_html", "render_markdown", "terminal_rows"]


def terminal_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headers and rows for a table in the terminal."""
    headers, rows = table_of(comparison)
    return headers, [
        [row.title, *(cell.text.replace("\n", ", ") for cell in row.cells)] for row in rows
    ]


def render_markdown(comparison: Comparison) -> str:
    """The table, the verdicts and the tests, ready for a pull request."""
    parts = [
        f"# {_plain(comparison.title)}",
        f"{comparison.n:,} texts of {_plain(comparison.dataset)}; intervals at "
        f"{_level(comparison)} (BCa bootstrap). {_plain(comparison.headline)}",
        _table(*terminal_rows(comparison)),
        "\n".join(f"- {_plain(verdict)}" for verdict in comparison.verdicts),
        _remarks(comparison),
        _groups(comparison),
        _curve(comparison),
        _pairs(comparison),
        f"## Every metric\n\n{_table(*metrics_table(comparison))}",
        f"## By label\n\n{_table(*labels_table(comparison))}",
        _subsets(comparison),
        _rationales(comparison),
        _published(comparison),
        _made(comparison),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _remarks(comparison: Comparison) -> str:
    remarks = [measured_on(comparison), *teacher_remarks(comparison)]
    return "\n\n".join(_plain(remark) for remark in remarks if remark)


def _level(comparison: Comparison) -> str:
    return f"{100 * comparison.systems[0].metrics['accuracy'].level:g} %"


def _table(headers: list[str], rows: list[list[str]]) -> str:
    lines = [headers, ["---"] + ["---:"] * (len(headers) - 1), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    # What a name or a title brings along must not start markup of its own.
    flat = " ".join(text.split())
    for sign in "\\`*_{}<>|#":
        flat = flat.replace(sign, "\\" + sign) if sign != "_" else flat.replace("_", "\\_")
    return flat


def _pairs(comparison: Comparison) -> str:
    if not comparison.pairs:
        return ""
    headers = ["Pair", "Accuracy", "Macro F1", "McNemar", "Holm", "Bonferroni", "P(better)"]
    rows = [_pair_row(pair) for pair in comparison.pairs]
    families = "\n".join(
        f"- {f.name} family: {f.statement}; alpha = {f.alpha:g}" for f in comparison.families
    )
    return f"## Tests\n\n{_table(headers, rows)}\n\n{families}"


def _pair_row(pair: PairComparison) -> list[str]:
    gaps = [signed_points(pair.differences[m].interval) for m in ("accuracy", "macro_f1")]
    bonferroni = pair.mcnemar.p_bonferroni
    return [
        f"{pair.first} - {pair.second} ({pair.family})",
        *gaps,
        p_value(pair.mcnemar.p),
        p_value(corrected_p(pair)),
        p_value(bonferroni) if bonferroni is not None else "",
        f"{pair.probability_first_better:.3f}",
    ]


def _groups(comparison: Comparison) -> str:
    if not comparison.groups:
        return ""
    headers = ["Recipe", "Seeds", "Accuracy", "Macro F1", "SD of accuracy over seeds"]
    rows = [
        [
            group.name,
            str(len(group.systems)),
            formats.metric(group.metrics["accuracy"]),
            formats.metric(group.metrics["macro_f1"]),
            f"{group.spread['accuracy']:.3f}" if len(group.systems) > 1 else formats.NOTHING,
        ]
        for group in comparison.groups
    ]
    return f"## Over seeds\n\n{_table(headers, rows)}"


def _curve(comparison: Comparison) -> str:
    curve = comparison.curve
    if curve is None:
        return ""
    headers = ["Recipe", "Share", "Texts", "Seeds", "Accuracy", "Macro F1"]
    rows = [
        [
            point.recipe,
            f"{point.fraction:.0%}",
            f"{point.training_examples:,}",
            str(len(point.seeds)),
            formats.metric(point.metrics["accuracy"]),
            formats.metric(point.metrics["macro_f1"]),
        ]
        for point in curve.points
    ]
    pairs = [*curve.between_recipes, *curve.against_baseline]
    said = "\n".join(f"- {_plain(pair.verdict)}" for pair in pairs)
    return f"## Data efficiency\n\n{_table(headers, rows)}\n\n{said}".rstrip()


def _rationales(comparison: Comparison) -> str:
    having = [r for r in comparison.systems if r.rationales]
    names = list(dict.fromkeys(name for r in having for name in r.rationales))
    if not names:
        return ""
    rows = [[display_name(r.system), *(_score(r, name) for name in names)] for r in having]
    skipped = "" if set(ENCODED) & set(names) else f"\n\n{WITHOUT_ENCODER}"
    return f"## Rationales\n\n{_table(['Mean (n texts)', *names], rows)}{skipped}"


def _score(report: EvaluationReport, name: str) -> str:
    score = report.rationales.get(name)
    return f"{score.mean.value:.3f} (n = {score.n})" if score else formats.NOTHING


def _subsets(comparison: Comparison) -> str:
    headers, rows = parts_table(comparison)
    return f"## Parts of the texts\n\n{_table(headers, rows)}" if rows else ""


def _published(comparison: Comparison) -> str:
    if not comparison.published:
        return ""
    rows = [
        [
            figure.system,
            ", ".join(f"{k} {v:.3f}" for k, v in figure.metrics.items()),
            f"{figure.source} {figure.url}".strip(),
            " ".join(figure.faults),
        ]
        for figure in comparison.published
    ]
    notes = "\n".join(f"- {_plain(note)}" for note in comparison.published_notes)
    table = _table(["System", "Printed", "Source", "Known faults"], rows)
    return f"## Published, not run here\n\n{notes}\n\n{table}"


def _made(comparison: Comparison) -> str:
    context = comparison.context
    lines = [f"- `{command}`" for command in context.commands]
    lines += [
        f"- {_plain(f'{display_name(report.system)}: ' + '; '.join(report.system.notes))}"
        for report in comparison.systems
        if report.system.notes
    ]
    lines += [f"- {_plain(note)}" for note in [*context.notes, *context.licences]]
    return "## How it was made\n\n" + "\n".join(lines) if lines else ""
