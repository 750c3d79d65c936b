"""A comparison as one self-contained HTML page: no request to anywhere, light, dark, print."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from common.evaluation import formats
from common.evaluation.all_metrics import MORE_METRICS, labels_table, metrics_table
from common.evaluation.charts import padded
from common.evaluation.comparison import BrowseAnswer, BrowseText, Comparison
from common.evaluation.figures import curve_figures, figures_of
from common.evaluation.grouping import group_of
from common.evaluation.inline_charts import forest, key_sign, leads_of, strip
from common.evaluation.remarks import WITHOUT_ENCODER, measured_on, teacher_remarks
from common.evaluation.table import METRIC_COLUMNS, part_title, parts_table, table_of
from common.evaluation.verdicts import (
    bound_points,
    corrected_p,
    display_name,
    p_value,
    signed_points,
)

_TEMPLATES = ("report.html.j2", "macros.html.j2", "report.css", "report.js")
_FACTS = ("split", "teacher", "seeds", "hardware", "versions", "fingerprints")
MOST_DATA_BYTES = 3_500_000
SCORE_TITLES = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "bleu": "BLEU",
    "word_overlap": "Word overlap",
    "sentence_similarity": "Sentence similarity",
    "bertscore": "BERTScore",
    "number_accuracy": "Number accuracy",
    "term_recall": "Financial term recall",
    "label_agreement": "Agrees with its label",
    "words": "Words",
    "gold_probability": "Probability of the gold label",
    "negative_log_loss": "Log loss (negative)",
    "negative_brier": "Brier score (negative)",
}
METRIC_TITLES = {
    **METRIC_COLUMNS,
    **MORE_METRICS,
    "unparseable": "Unreadable",
    "ece": "Calibration error (ECE)",
}
LABEL_TITLES = {"precision": "precision", "recall": "recall", "f1": "F1"}


def render_html(comparison: Comparison) -> str:
    """The page. Everything from outside (texts, names, answers, config) is escaped."""
    template = _environment().get_template("report.html.j2")
    data, shown = _browse_data(comparison)
    headers, rows = table_of(comparison)
    titles = {r.system.name: display_name(r.system) for r in comparison.systems}
    leads = leads_of(comparison)
    return template.render(
        c=comparison,
        context=comparison.context,
        headers=headers,
        parts=parts_table(comparison),
        more=[metrics_table(comparison), labels_table(comparison)],
        rows=rows,
        titles=titles,
        place={r.system.name: i for i, r in enumerate(comparison.systems)},
        by_name={r.system.name: key_sign(i) for i, r in enumerate(comparison.systems)},
        signs=[key_sign(i) for i in range(len(comparison.systems) + 1)],
        strips=_strips(comparison),
        without_encoder=WITHOUT_ENCODER,
        remarks=[measured_on(comparison), *teacher_remarks(comparison)],
        leads=leads,
        forest=forest(leads),
        own=group_of(comparison.groups, comparison.reference).name
        if comparison.groups
        else titles[comparison.reference],
        figures=figures_of(comparison),
        curves=curve_figures(comparison.curve) if comparison.curve else [],
        curve_names=_curve_names(comparison),
        curve_signs=[key_sign(i) for i in range(9)],
        config=_as_yaml(comparison.context.config),
        facts_of={name: flat_facts(getattr(comparison.context, name)) for name in _FACTS},
        scores=_score_names(comparison),
        unmet={name: _unmet(comparison, name) for name in ("t_test", "wilcoxon")},
        data=data,
        shown=shown,
    )


def flat_facts(facts: Mapping[str, Any], prefix: str = "", most: int = 8) -> dict[str, str]:
    """Nested facts as one list of names and short values; long lists as their length."""
    found: dict[str, str] = {}
    for key, value in facts.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            found |= flat_facts(value, name, most)
        elif isinstance(value, list | tuple | set | frozenset):
            short = len(value) <= most
            found[name] = ", ".join(map(_fact, value)) if short else f"{len(value):,} entries"
        elif value not in (None, ""):
            found[name] = _fact(value)
    return found


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def _as_yaml(config: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(config, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True) if plain else ""


def _curve_names(comparison: Comparison) -> list[str]:
    curve = comparison.curve
    if curve is None:
        return []
    recipes = list(dict.fromkeys(point.recipe for point in curve.points))
    return recipes + ([curve.baseline] if curve.baseline else [])


def _score_names(comparison: Comparison) -> list[str]:
    having = {name for report in comparison.systems for name in report.rationales}
    return [name for name in SCORE_TITLES if name in having]


def _unmet(comparison: Comparison, name: str) -> str:
    """ "3 of the 8 differences above"."""
    tests = [getattr(score, name) for pair in comparison.pairs for score in pair.scores]
    unmet = sum(not test.met for test in tests)
    return f"{unmet or 'none'} of the {len(tests)} differences"


def _environment() -> Environment:
    folder = files("common.evaluation") / "templates"
    sources = {name: (folder / name).read_text(encoding="utf-8") for name in _TEMPLATES}
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(
        metric=formats.metric,
        p_value=p_value,
        points=signed_points,
        bound_points=bound_points,
        holm=corrected_p,
        part_title=part_title,
    )
    environment.globals["score_titles"] = SCORE_TITLES
    environment.globals["metric_titles"] = METRIC_TITLES
    environment.globals["label_titles"] = LABEL_TITLES
    environment.globals["styles"] = Markup(sources["report.css"])
    environment.globals["script"] = Markup(sources["report.js"])
    return environment


def _strips(comparison: Comparison) -> list[Markup]:
    reports = comparison.rows
    accuracies = [r.metrics["accuracy"] for r in reports]
    low, high = padded([v for a in accuracies for v in (a.low, a.high)], 0.02)
    return [strip(a, low, high, i) for i, a in enumerate(accuracies)]


def _browse_data(comparison: Comparison) -> tuple[Markup, int]:
    """
    The texts as JSON for the page, and how many of them fit.

    `<`, `>` and `&` are written as escapes, so no text can end the script element.
    """
    order = {label: i for i, label in enumerate(comparison.labels)}
    rows: list[str] = []
    size = 0
    for text in comparison.texts:
        row = json.dumps(_row(text, order), ensure_ascii=False, separators=(",", ":"))
        size += len(row.encode())
        if size > MOST_DATA_BYTES:
            break
        rows.append(row)
    head = {
        "labels": comparison.labels,
        "systems": [display_name(r.system) for r in comparison.systems],
    }
    whole = f'{{"head":{json.dumps(head, ensure_ascii=False)},"rows":[{",".join(rows)}]}}'
    for sign in "<>&\u2028\u2029":
        whole = whole.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(whole), len(rows)


def _row(text: BrowseText, order: dict[str, int]) -> list[Any]:
    answers = [_answer(answer, order) for answer in text.answers]
    teacher = _answer(text.teacher, order) if text.teacher else 0
    agreement = text.agreement if text.agreement is not None else 0
    return [text.id, text.text, order[text.gold], agreement, answers, teacher]


def _answer(answer: BrowseAnswer, order: dict[str, int]) -> list[Any]:
    label = -1 if answer.label is None else order[answer.label]
    row: list[Any] = [label]
    given = [
        [round(p, 3) for p in answer.probabilities] if answer.probabilities else 0,
        answer.rationale or 0,
        answer.raw or 0,
    ]
    while given and given[-1] == 0:
        given.pop()
    return row + given
