"""The records of a comparison: what `report.json` holds, what the renderers read."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from common.records import EvaluationReport, Interval, Prediction, Record, Scalar, TeacherAnswer

Outcome = Literal["first_ahead", "second_ahead", "not_shown"]


@dataclass(frozen=True)
class Judged:
    """A system's report with the predictions it was judged by."""

    report: EvaluationReport
    predictions: list[Prediction]


class CurvePoint(Record):
    """A recipe at one size of its training part: means over seeds and their intervals."""

    recipe: str
    fraction: float
    training_examples: int
    seeds: list[int]
    metrics: dict[str, Interval]
    spread: dict[str, float]


class ReportContext(Record):
    """
    How the comparison was made. Everything is optional: what is absent is left out of the page.

    `reference` names the system that the others are measured against (None: the first student).
    `protocol` is a key of configs/published.yaml (None: recognised by `config`'s data section).
    `config` is the resolved configuration. `histories` maps a system to its training log: one
    mapping a step with any of step, epoch, loss, label_loss, rationale_loss, grad_norm,
    learning_rate, eval_loss, eval_accuracy. `teacher_answers` (by example id) stand beside each
    text. `teacher` and `split` are free facts (names, counts, dollars) shown as tables.
    """

    title: str | None = None
    run_id: str | None = None
    created: str | None = None
    description: str = ""
    reference: str | None = None
    protocol: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    seeds: dict[str, int] = Field(default_factory=dict)
    fingerprints: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Scalar] = Field(default_factory=dict)
    commands: list[str] = Field(default_factory=list)
    licences: list[str] = Field(default_factory=list)
    histories: dict[str, list[dict[str, float | None]]] = Field(default_factory=dict)
    teacher: dict[str, Any] = Field(default_factory=dict)
    teacher_answers: dict[str, TeacherAnswer] = Field(default_factory=dict)
    split: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class TestResult(Record):
    """A test's p, before and after correction, with what it assumes and whether that holds."""

    __test__ = False  # no test of pytest's

    name: str
    statistic: float | None = None
    p: float
    p_holm: float | None = None
    p_bonferroni: float | None = None
    assumes: str
    met: bool = True
    note: str = ""


class Difference(Record):
    """first - second in one metric: paired BCa interval, paired permutation test."""

    interval: Interval
    permutation: TestResult
    share_above_zero: float


class ScoreTest(Record):
    """
    A score that every text has of its own, compared text by text (first - second).

    `t_test` and `wilcoxon` are both given; `advised` is the one that Shapiro-Wilk points to.
    `interval` is Student's; `resampled` has the BCa interval and the permutation test.
    `cohens_d` is the mean of the differences over their standard deviation: None where they are
    all the same, and so is the Bayes factor.
    """

    score: str
    n: int
    mean_first: float
    mean_second: float
    interval: Interval
    resampled: Difference
    t_test: TestResult
    wilcoxon: TestResult
    advised: Literal["t_test", "wilcoxon"]
    cohens_d: float | None
    effect: Literal["negligible", "small", "medium", "large"]
    bayes_factor: float | None = None
    credible: Interval
    probability_first_better: float


class PairComparison(Record):
    """
    Two systems on the same texts.

    `differences` by metric over all texts; `by_label` has precision, recall and F1 of each label;
    `parts` the accuracy on each part of the texts. `smallest_shown`: the least difference in
    accuracy that McNemar's test would have shown here, after Holm over the family; `detectable`:
    the true difference found four times in five.
    """

    first: str
    second: str
    family: str
    n: int
    both_right: int
    only_first_right: int
    only_second_right: int
    both_wrong: int
    mcnemar: TestResult
    differences: dict[str, Difference]
    by_label: dict[str, dict[str, Difference]] = Field(default_factory=dict)
    parts: dict[str, Difference] = Field(default_factory=dict)
    odds_ratio: Interval | None = None
    probability_first_better: float
    smallest_shown: float
    detectable: float
    scores: list[ScoreTest] = Field(default_factory=list)
    outcome: Outcome = "not_shown"
    verdict: str = ""

    @property
    def discordant(self) -> int:
        """Texts that exactly one of the two has right."""
        return self.only_first_right + self.only_second_right


class Family(Record):
    """The comparisons over which p values are corrected."""

    name: str
    statement: str
    size: int
    alpha: float


class SeedGroup(Record):
    """Runs that differ by seed alone: mean over the seeds, interval over seeds and texts."""

    name: str
    systems: list[str]
    seeds: list[int | None]
    metrics: dict[str, Interval]
    spread: dict[str, float]


class GroupComparison(Record):
    """
    Two groups of seeds (or a group and a single run), resampled by seed, then by text.

    `smallest_shown`: the least difference in accuracy that the bootstrap could have shown with
    this spread, after correction; None where it has too few resamples to show any.
    """

    first: str
    second: str
    seeds: tuple[int, int]
    differences: dict[str, Interval]
    bootstrap: TestResult
    seed_t_test: TestResult | None = None
    smallest_shown: float | None = None
    family: str = "primary"
    outcome: Outcome = "not_shown"
    verdict: str = ""


class Curve(Record):
    """
    Points by recipe and size; `baseline` is the line they are held against.

    `between_recipes`: every two recipes at the same size.
    """

    points: list[CurvePoint]
    baseline: str | None = None
    baseline_metrics: dict[str, Interval] = Field(default_factory=dict)
    against_baseline: list[GroupComparison] = Field(default_factory=list)
    between_recipes: list[GroupComparison] = Field(default_factory=list)


class PublishedFigure(Record):
    """A figure from the literature; never run here."""

    system: str
    metrics: dict[str, float]
    source: str
    url: str = ""
    faults: list[str] = Field(default_factory=list)


class BrowseAnswer(Record):
    """What one system said of one text."""

    label: str | None
    probabilities: list[float] | None = None
    rationale: str | None = None
    raw: str | None = None


class BrowseText(Record):
    """One text with the gold label and every system's answer (in the order of the systems)."""

    id: str
    text: str
    gold: str
    agreement: Scalar = None
    answers: list[BrowseAnswer]
    teacher: BrowseAnswer | None = None


class Comparison(Record):
    """
    Everything a report shows; `model_dump_json()` is the file report.json.

    `systems` are in the order of the table; `constant` is the row of a system that always gives
    the most frequent gold label. `texts` may be capped: `texts_total` counts them all.
    """

    schema_version: Literal[2] = 2
    title: str
    task: str
    labels: list[str]
    dataset: str
    n: int
    reference: str
    systems: list[EvaluationReport]
    constant: EvaluationReport | None
    constant_label: str
    headline: str
    verdicts: list[str]
    families: list[Family]
    pairs: list[PairComparison]
    groups: list[SeedGroup] = Field(default_factory=list)
    group_pairs: list[GroupComparison] = Field(default_factory=list)
    published: list[PublishedFigure] = Field(default_factory=list)
    published_notes: list[str] = Field(default_factory=list)
    curve: Curve | None = None
    texts: list[BrowseText] = Field(default_factory=list)
    texts_total: int = 0
    context: ReportContext

    @property
    def rows(self) -> list[EvaluationReport]:
        """The systems and, last, the constant answer where it is none of them."""
        return [*self.systems, *([self.constant] if self.constant else [])]
