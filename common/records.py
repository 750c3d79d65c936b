"""
The records that cross a process or a file: frozen, validated, JSON and Arrow friendly.

Example -> TeacherAnswer | Unanswered -> TrainingPair -> Prediction -> EvaluationReport
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Scalar = str | int | float | bool | None


class Record(BaseModel):
    """Base of all records: immutable, and closed against misspelt fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Example(Record):
    """One text of a data set. `label` is the gold label, None where nobody gave one."""

    id: str
    text: str
    label: str | None = None
    meta: dict[str, Scalar] = Field(default_factory=dict)


class Reason(StrEnum):
    """Why a teacher's reply could not be used."""

    EMPTY = "empty"
    NOT_JSON = "not_json"
    SCHEMA = "schema"
    UNKNOWN_LABEL = "unknown_label"
    NO_RATIONALE = "no_rationale"
    RATIONALE_LENGTH = "rationale_length"
    RATIONALE_LANGUAGE = "rationale_language"
    CONTRADICTION = "contradiction"
    ECHO = "echo"
    REFUSED = "refused"
    TRUNCATED = "truncated"
    REJECTED = "rejected"
    UNAVAILABLE = "unavailable"
    NOT_RECORDED = "not_recorded"
    LOW_CONFIDENCE = "low_confidence"


class Usage(Record):
    """Tokens and money of one request, as the service reported them. US dollars."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            usd=self.usd + other.usd,
        )


class TokenOdds(Record):
    """
    What a teacher's model thought likely at one token of its rationale.

    `start`: the byte of the rationale (UTF-8) where the token begins; `token`: its text; `top`:
    natural log-probabilities of the likeliest tokens there, by their text.
    """

    start: int = Field(ge=0)
    token: str
    top: dict[str, float]


def unset(value: object) -> bool:
    """Left out of JSON while unset: digests and ids of what was written before the field stay."""
    return value is None


class TeacherAnswer(Record):
    """
    What one teacher said of one example in one sample.

    `probabilities` maps every label to its probability where the service gave logprobs or
    several samples were counted; `confidence` is what the teacher stated, in [0, 1].
    `key` is the cache key the raw reply lies under. `rationale_odds`: token by token, where the
    teacher was asked for them (rationale_logprobs).
    """

    outcome: Literal["answered"] = "answered"
    example_id: str
    teacher: str
    sample: int = 0
    label: str
    rationale: str | None = None
    confidence: float | None = Field(default=None, ge=0.0, le=1.0)
    probabilities: dict[str, float] | None = None
    rationale_odds: list[TokenOdds] | None = Field(default=None, exclude_if=unset)
    model: str | None = None
    key: str | None = None
    usage: Usage = Usage()
    cached: bool = False


class Unanswered(Record):
    """A row without a usable answer: a value, never an exception that takes other rows along."""

    outcome: Literal["unanswered"] = "unanswered"
    example_id: str
    teacher: str
    sample: int = 0
    reason: Reason
    detail: str = ""
    key: str | None = None
    usage: Usage = Usage()
    cached: bool = False


Answer = Annotated[TeacherAnswer | Unanswered, Field(discriminator="outcome")]


class TrainingPair(Record):
    """
    One text with what a student shall learn from it.

    `rationale` None: the example adds only its label term. `probabilities`: the teachers' soft
    label over the task's label set. `confidence`: how sure the teachers are of `label` together.
    `weight` scales both terms of the loss. `rationale_odds`: what its teacher's model thought
    likely at the tokens of `rationale`, for token-level distillation.
    """

    example_id: str
    text: str
    label: str
    rationale: str | None = None
    probabilities: dict[str, float] | None = None
    confidence: float | None = Field(default=None, ge=0.0, le=1.0)
    weight: float = Field(default=1.0, ge=0.0)
    rationale_odds: list[TokenOdds] | None = Field(default=None, exclude_if=unset)


class Prediction(Record):
    """
    What a system says of one text. `label` None: its output could not be read as a label,
    which counts as wrong. `raw` is the generated text where the system generates.
    """

    example_id: str
    label: str | None
    probabilities: dict[str, float] | None = None
    rationale: str | None = None
    raw: str | None = None


class SystemCard(Record):
    """
    What stands behind a row of the comparison: identity, size, cost, how it was made.

    `role`: teacher, student or baseline. `tiny`: the weights are random or toy sized, and every
    place that shows its numbers says so. Times in seconds, sizes in bytes, money in US dollars.
    Latencies are of one text at a time (`latency_texts` of them) on `hardware`, where
    `predict_texts` in `predict_seconds` were measured as well.
    `tokens_seen`: all that went through the model in training, by which trainings are equal or not.
    `group` joins runs that differ by `seed` alone: they are compared as one system.
    `stands_for`: names of systems of the same recipe with the same answers, listed once as this.
    """

    name: str
    role: Literal["teacher", "student", "baseline"]
    title: str
    tiny: bool = False
    parameters: int | None = None
    trainable_parameters: int | None = None
    disk_bytes: int | None = None
    training_examples: int | None = None
    tokens_seen: int | None = None
    training_seconds: float | None = None
    predict_seconds: float | None = None
    predict_texts: int | None = None
    peak_memory_bytes: int | None = None
    usd_per_1000: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    latency_texts: int | None = None
    training_texts_per_second: float | None = None
    hardware: str | None = None
    group: str | None = None
    seed: int | None = None
    stands_for: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class Interval(Record):
    """A point estimate with its confidence interval at `level`."""

    value: float
    low: float
    high: float
    level: float = 0.95


class ClassScores(Record):
    """Precision, recall and F1 of one label, and how many gold texts carry it."""

    precision: float
    recall: float
    f1: float
    support: int


class Subset(Record):
    """The same judgement on a part of the texts, or under another reading of the answers."""

    n: int
    metrics: dict[str, Interval]
    unparseable: int = 0


class ReliabilityBin(Record):
    """Texts whose highest probability lies in (low, high]: how sure, and how often right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


class CoveragePoint(Record):
    """Accuracy on the share of the texts that the system was surest of."""

    coverage: float
    accuracy: float


class ProbabilityScores(Record):
    """
    What the probabilities are worth, on the `n` texts that have them.

    Log loss in nats; Brier is the sum over all labels (0 to 2); ECE over equal-width bins.
    """

    n: int
    log_loss: Interval
    brier: Interval
    ece: Interval
    reliability: list[ReliabilityBin]
    coverage: list[CoveragePoint]


class TextScore(Record):
    """The mean of a score that every text has of its own, over the `n` texts that have it."""

    n: int
    mean: Interval


class EvaluationReport(Record):
    """
    How one system did on one set of texts.

    `metrics` maps a metric's name to its value and interval; `confusion[i][j]` counts gold
    label i answered as label j, with one further column for unparseable answers.
    `subsets` judges parts of the texts (agreement levels, without near-duplicates of the
    training part); `lenient` is the task's lenient reading of the same raw answers.
    `rationales` maps a rationale score to its mean over the texts that have what it needs.
    """

    schema_version: Literal[1] = 1
    system: SystemCard
    dataset: str
    data_fingerprint: str
    labels: list[str]
    n: int
    metrics: dict[str, Interval]
    per_class: dict[str, ClassScores]
    confusion: list[list[int]]
    unparseable: int
    subsets: dict[str, Subset] = Field(default_factory=dict)
    lenient: Subset | None = None
    probability: ProbabilityScores | None = None
    rationales: dict[str, TextScore] = Field(default_factory=dict)
    extra: dict[str, Any] = Field(default_factory=dict)
