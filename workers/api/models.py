"""What goes in and comes out over HTTP."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StringConstraints,
    model_validator,
)

from common.config import ComparisonConfig
from common.config.comparison import SystemName
from workers.job_records import State
from workers.tokens import NAME

CONFIG_NAME = r"^[a-z0-9][a-z0-9/._-]{0,127}$"
# Texts may have line breaks and tabs, no other control characters.
PLAIN = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+$"
Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000, pattern=PLAIN)]
Until = Literal["label", "train", "evaluate", "report"]
Kind = Literal[Until, "compare"]
Number = Annotated[StrictInt | StrictFloat, Field(allow_inf_nan=False)] | None


class Closed(BaseModel):
    """Requests are closed: an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid")


class JobRequest(Closed):
    """
    A run to do, up to the stages of kind `until`, or judged runs to `compare`.

    For a run give the name of a `config` of this installation, with some numbers changed by
    `overrides`, or an `inline` config whose files are uploads (`upload:ID`).
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"config": "demo", "overrides": {"seed": 7, "training.epochs": 2}},
                {"compare": {"runs": ["demo-1a2b3c4d5e", "demo-5e4d3c2b1a"], "only": ["student"]}},
            ]
        },
    )
    config: Annotated[str, StringConstraints(pattern=CONFIG_NAME)] | None = None
    overrides: dict[str, Number] = Field(default_factory=dict, max_length=32)
    inline: dict[str, Any] | None = None
    compare: ComparisonConfig | None = None
    until: Until = "report"

    @model_validator(mode="after")
    def _one_source(self) -> "JobRequest":
        if [self.config, self.inline, self.compare].count(None) != 2:
            raise ValueError("give one of `config`, `inline` and `compare`")
        if self.config is None and self.overrides:
            raise ValueError("`overrides` belong to a named config; change the inline one instead")
        if self.compare and self.until != "report":
            raise ValueError("`until` belongs to a run; a comparison is one stage")
        return self

    @property
    def kind(self) -> Kind:
        """What the job's record says it is."""
        return "compare" if self.compare else self.until


class ResumeRequest(Closed):
    """
    How to go on. `max_usd`: the job's budget from now on, what is spent included; for one that
    paused because its budget was reached. Only a token of scope `admin` may change it.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"max_usd": 20}]})
    max_usd: (
        Annotated[StrictInt | StrictFloat, Field(gt=0, le=100_000, allow_inf_nan=False)] | None
    ) = None


class FaultView(BaseModel):
    """Why something stopped."""

    kind: str
    message: str


class StageView(BaseModel):
    """One stage: `done` of `total` in `unit`s. Times in seconds since 1970."""

    name: str
    title: str
    state: State
    done: int
    total: int
    unit: str
    started_at: float | None
    finished_at: float | None
    worker: str | None
    info: dict[str, Any]
    fault: FaultView | None


class JobView(BaseModel):
    """A job with its stages and what the labelling has counted so far."""

    id: str
    kind: str
    state: State
    created_at: float
    stages: list[StageView]
    counters: dict[str, float]
    fault: FaultView | None
    links: dict[str, str]


class JobPage(BaseModel):
    """A page of jobs, newest first; `next` goes on, null at the end."""

    items: list[JobView]
    next: str | None


class RunView(BaseModel):
    """A run on disk. `accuracy`: system -> share of right answers, where it is judged."""

    id: str
    name: str
    task: str
    description: str
    modified_at: float
    reported: bool
    stages_done: list[str]
    systems: list[str]
    trained: list[str]
    accuracy: dict[str, float]
    links: dict[str, str]


class RunDetail(RunView):
    """A run with its resolved config and what labelling and training left behind."""

    config: dict[str, Any]
    labelling: dict[str, Any] | None
    trainings: dict[str, dict[str, Any]]


class RunPage(BaseModel):
    """A page of runs, newest first."""

    items: list[RunView]
    next: str | None


class PredictRequest(Closed):
    """
    Texts for a trained system of a run. `export`: the name of one of its exports to answer in its
    place, such as onnx-int8; without one, the student as it was trained.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"texts": ["Operating profit doubled to EUR 12 million."]}]
        },
    )
    texts: list[Text] = Field(min_length=1, max_length=256)
    system: SystemName = "student"
    export: SystemName | None = None
    rationales: bool = False


class PredictionView(BaseModel):
    """What the system says of one text; probabilities over the task's labels."""

    label: str
    probabilities: dict[str, float]
    rationale: str | None


class PredictResponse(BaseModel):
    """Predictions in the order of the texts; the time is the server's, waiting included."""

    run: str
    system: str
    milliseconds: float
    predictions: list[PredictionView]


class DatasetView(BaseModel):
    """An uploaded data set; name it as `upload:ID` in an inline config."""

    id: str
    format: str
    bytes: int
    rows: int
    columns: list[str]
    labels: dict[str, int]
    created_at: float
    uploaded_by: str


class DatasetPage(BaseModel):
    """Uploaded data sets, newest first."""

    items: list[DatasetView]


class ConfigView(BaseModel):
    """A config a job may name, and the first lines of its file."""

    name: str
    about: str


class ConfigList(BaseModel):
    """The configs of this installation and what may be overridden in them."""

    items: list[ConfigView]
    overrides: dict[str, float]


class CacheStats(BaseModel):
    """Paid answers kept in Redis, and what all jobs have asked and saved."""

    answers: int
    memory_bytes: int
    asked: int
    cached: int
    usd: float


class TeacherView(BaseModel):
    """A teacher's service as the workers share it: pace, throttling."""

    name: str
    state: dict[str, Any]


class TeacherList(BaseModel):
    """The teachers' services that have been asked, and the money spent by all jobs."""

    items: list[TeacherView]
    usd: float


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]
    version: str


class Ready(BaseModel):
    """Whether work can be taken: what was looked at, true where it is fit."""

    ready: bool
    checks: dict[str, bool]


class TokenRequest(Closed):
    """A token to make."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "notebook", "scope": "read"}]}
    )
    name: Annotated[str, StringConstraints(pattern=NAME)]
    scope: Literal["read", "submit", "admin"] = "read"
    requests_per_minute: int = Field(default=6000, gt=0, le=10_000_000)


class TokenView(BaseModel):
    """A token without its secret."""

    id: str
    name: str
    scope: Literal["read", "submit", "admin"]
    created_at: float
    requests_per_minute: int


class TokenMade(TokenView):
    """A new token with its secret, told this once."""

    token: str


class TokenList(BaseModel):
    """Every valid token."""

    items: list[TokenView]
