"""The page beside an exported student: what it is, made from what, how good, under which terms."""

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import Field

from common.records import EvaluationReport, Interval, Record
from student.calibration import UNCALIBRATED, Calibration
from student.checkpoint import Manifest
from student.export.public import is_local, public_name
from student.licences import UNKNOWN_LICENCE, base_licence
from student.progress import TrainingSummary
from student.runtime import ExportRecord


class ModelCardFacts(Record):
    """
    What the card says beyond the manifest. `teachers`: one line each, with terms; `licences` of
    the data; `must_begin_with`: what a licence wants the name to begin with ("Llama").
    `seen`: test texts that stand, folded equal, in what this student was trained and validated on;
    `near`: those at `near_cosine` or more to a text of the training side, equal ones included
    (None: not counted).
    """

    run_id: str
    system: str
    data: str
    data_fingerprint: str = ""
    training_examples: int | None = None
    teachers: list[str] = Field(default_factory=list)
    licences: list[str] = Field(default_factory=list)
    must_begin_with: str | None = None
    report: EvaluationReport | None = None
    seen: int | None = None
    near: int | None = None
    near_cosine: float = 0.0
    calibration: Calibration = UNCALIBRATED


def model_name(facts: ModelCardFacts) -> str:
    """The name a distributed copy goes by: begins as the licences want it."""
    plain = f"{facts.run_id}-{facts.system}"
    first = facts.must_begin_with
    return plain if not first or plain.lower().startswith(first.lower()) else f"{first}-{plain}"


def render_model_card(facts: ModelCardFacts, manifest: Manifest, export: ExportRecord) -> str:
    """The card as Markdown with the front matter that model hubs read."""
    lines = [
        *_front_matter(manifest),
        *_what(facts, manifest, export),
        *_training(facts, manifest),
        *_results(facts),
        *_limits(facts, manifest, export),
        *_licence(facts, manifest),
        *_check(export),
    ]
    return "\n".join(lines) + "\n"


def _front_matter(manifest: Manifest) -> Iterator[str]:
    tree: dict[str, Any] = {
        **_licence_lines(manifest),
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["finance", "knowledge-distillation", manifest.task.name],
    }
    if not manifest.student.tiny:
        tree["base_model"] = public_name(manifest.student.model)
    yield from ("---", yaml.safe_dump(tree, sort_keys=False).strip(), "---", "")


def _licence_lines(manifest: Manifest) -> dict[str, str]:
    """
    What hubs show and search by. The base's licence never stands there alone: the data have one
    too, known or not, and a teacher its terms.
    """
    base = "apache-2.0" if manifest.student.tiny else base_licence(manifest.student.model)
    own = [] if base == UNKNOWN_LICENCE else [base]
    terms = ["teacher-terms"] if manifest.training.labels == "teacher" else []
    name = "-and-".join([*own, "data-licence", *terms])
    return {"license": UNKNOWN_LICENCE, "license_name": name}


def _what(facts: ModelCardFacts, manifest: Manifest, export: ExportRecord) -> Iterator[str]:
    student, summary = manifest.student, manifest.summary
    yield from (f"# {model_name(facts)}", "")
    if facts.must_begin_with == "Llama":
        yield from ("Built with Llama.", "")
    if _tiny(manifest):
        yield from (
            "**Tiny.** The weights are random at the start or toy sized: this student shows that "
            "the parts work together, not what distillation can do.",
            "",
        )
    size = f", {summary.parameters:,} parameters" if summary else ""
    labels = ", ".join(manifest.task.label_names)
    base = "random weights" if student.tiny else public_name(student.model)
    yield f"{manifest.task.title}: one of {labels}. A {student.architecture} student{size}, "
    yield f"trained from {base}; exported as {export.format} ({export.numbers})."
    yield from ("", "```sh", 'finstill predict FOLDER "Operating profit doubled."', "```", "")


def _training(facts: ModelCardFacts, manifest: Manifest) -> Iterator[str]:
    training, summary = manifest.training, manifest.summary
    count = f"{facts.training_examples:,} " if facts.training_examples else ""
    yield from ("## Training", "")
    yield f"- Data: {count}texts of {facts.data}; labels: {training.labels}."
    if facts.data_fingerprint:
        yield f"- Data fingerprint: `{facts.data_fingerprint}`."
    if training.labels == "teacher":
        yield from (f"- Teacher {line}" for line in facts.teachers)
    how = (
        f"step by step (Hsieh et al. 2023), rationale weight {training.rationale_weight:g}"
        if manifest.explains
        else "labels only"
    )
    if training.copying:
        how += f", after copying the texts (epochs: {training.copying.epochs:g})"
    steps = _steps(summary) if summary else ""
    yield f"- Method: {how}{steps}, seed {training.seed}, {training.precision}."
    calibration = facts.calibration
    if calibration.n:
        yield (
            f"- Probabilities are calibrated: temperature {calibration.temperature:.3f}, fitted on "
            f"{calibration.n:,} validation texts."
        )
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    yield f"- Made with {versions}; commit {manifest.git_commit or 'unknown'}."
    yield ""


def _steps(summary: TrainingSummary) -> str:
    """How long it was trained, and which of its steps' weights these are."""
    early = " (stopped early)" if summary.stopped_early else ""
    told = f", {summary.steps:,} steps{early}, {summary.examples_seen:,} examples seen"
    if summary.best_step in (None, summary.steps):
        return told
    return f"{told}, weights of step {summary.best_step:,}, the best on the validation texts"


def _results(facts: ModelCardFacts) -> Iterator[str]:
    yield from ("## Results", "")
    report = facts.report
    if report is None:
        yield from ("Not evaluated.", "")
        return
    yield f"{report.n:,} test texts of {report.dataset}{_seen(facts)}."
    yield from ("", "| metric | value [95 %] |", "|---|---|")
    yield from (f"| {name} | {_interval(value)} |" for name, value in report.metrics.items())
    if report.probability:
        yield f"| expected calibration error | {_interval(report.probability.ece)} |"
    yield from ("", "| label | precision | recall | F1 | texts |", "|---|---|---|---|---|")
    for name, scores in report.per_class.items():
        figures = (scores.precision, scores.recall, scores.f1)
        yield f"| {name} | {' | '.join(f'{x:.3f}' for x in figures)} | {scores.support:,} |"
    yield from ("", "The figures are those of the student before it was exported.", "")


def _seen(facts: ModelCardFacts) -> str:
    """What training has seen of the test texts, as far as the run knows."""
    if facts.seen is None:
        return ""
    verb = "stands" if facts.seen == 1 else "stand"
    told = (
        f", of which {facts.seen:,} {verb} in its training or validation part too"
        if facts.seen
        else ", which no part of training has seen"
    )
    if facts.near:
        counted = f"cosine {facts.near_cosine:g} or more{', those included' if facts.seen else ''}"
        told += f"; {facts.near:,} have a near duplicate on the training side ({counted})"
    return told


def _limits(facts: ModelCardFacts, manifest: Manifest, export: ExportRecord) -> Iterator[str]:
    yield from ("## Limits", "")
    yield f"- Reads the first {manifest.student.max_input_tokens} tokens of one text at a time."
    what = "Judged" if facts.report else "Trained"
    yield f"- {what} on {facts.data} only; other sources, languages and years may differ."
    if manifest.explains and not export.generates:
        yield f"- Writes no rationales: {export.format} holds what scores labels; its student does."
    elif manifest.explains:
        yield "- Its rationales are generated text: fluent is not faithful; check the numbers."
        yield (
            "- A rationale is generated from the text alone, not from the label beside it, and may "
            f"argue for another{_agreement(facts)}."
        )
    if manifest.training.labels == "teacher":
        yield "- It repeats its teachers' mistakes."
    yield from ("- Not investment advice.", "")


def _agreement(facts: ModelCardFacts) -> str:
    found = facts.report.rationales.get("label_agreement") if facts.report else None
    if found is None:
        return ""
    share = _interval(found.mean)
    return f"; of {found.n:,} that name exactly one label, {share} name that one (label agreement)"


def _licence(facts: ModelCardFacts, manifest: Manifest) -> Iterator[str]:
    student = manifest.student
    yield from ("## Licence", "")
    if student.tiny:
        yield "- Weights: made here from random ones."
    else:
        known = base_licence(student.model)
        told = f"{known}, as its README says" if is_local(student.model) else known
        told = "look it up before you distribute this" if known == UNKNOWN_LICENCE else told
        yield f"- Base weights: {public_name(student.model)}: {told}."
    unknown = f"no licence of {facts.data} is known here: look it up before you distribute this."
    yield from (f"- Data: {licence}" for licence in facts.licences or [unknown])
    if manifest.training.labels == "teacher":
        yield "- The terms of the teachers above bind the use of a model trained on their answers."
    yield "- All of these hold at once: the licence of the base weights alone is not enough."
    yield ""


def _check(export: ExportRecord) -> Iterator[str]:
    found = export.check
    if not found:
        return
    yield from ("## Check of this export", "")
    yield f"Reloaded and compared with its student on {found['texts']:.0f} {export.texts}: "
    yield f"{found['labels']:.2%} other labels, mean difference of probabilities "
    yield f"{found['probability']:.2g}, of the label's log-probability "
    told = f"; likeness of rationales {found['rationales']:.2f}" if "rationales" in found else ""
    yield f"{found['log_probability']:.2g}{told}."


def _interval(value: Interval) -> str:
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _tiny(manifest: Manifest) -> bool:
    return bool(manifest.student.tiny or (manifest.summary and manifest.summary.tiny))
