"""Who is asked for labels and rationales, at what pace, and for how much money."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.config.base import Section
from common.records import unset

RationaleOrder = Literal["before_label", "after_label", "none"]


class Pace(Section):
    """
    Limits shared by all workers through Redis. None: no limit of that kind.

    `slow_factor`: a service that queues instead of refusing is slowed down for when its round
    trip exceeds so many times its fastest (vLLM: about 4).
    """

    max_concurrency: int = Field(default=64, gt=0)
    requests_per_minute: int | None = Field(default=None, gt=0)
    input_tokens_per_minute: int | None = Field(default=None, gt=0)
    output_tokens_per_minute: int | None = Field(default=None, gt=0)
    slow_factor: float | None = Field(default=None, gt=1)
    timeout_seconds: float = Field(default=60.0, gt=0)
    max_attempts: int = Field(default=6, gt=0)


class TeacherBase(Section):
    """
    What every teacher shares.

    `prompt` names configs/prompts/NAME.yaml; None takes the task's. `samples` asks each text
    several times (self-consistency; the sample index is part of the cache key).
    """

    name: str | None = None
    prompt: str | None = None
    rationale: RationaleOrder = "after_label"
    samples: int = Field(default=1, gt=0)
    max_output_tokens: int = Field(default=256, gt=0)
    pace: Pace = Pace()


class RecordedTeacher(TeacherBase):
    """
    Answers from a file (JSONL or Parquet): demos, tests and re-runs without a key.

    Rows are joined by `id_column` (None: the first of id, example_id, fpb_id that exists).
    `only` keeps rows whose columns have these values, where a file holds several teachers.
    `raw_column` names a column with unparsed replies instead of label and rationale.
    """

    kind: Literal["recorded"]
    answers: Path
    id_column: str | None = None
    raw_column: str | None = None
    only: dict[str, str | int] = Field(default_factory=dict)


class ClaudeTeacher(TeacherBase):
    """Claude through the Anthropic API: `live` Messages or half-price Message `batch`es."""

    kind: Literal["claude"]
    model: str
    mode: Literal["live", "batch"] = "live"
    thinking: bool = False
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class VllmTeacher(TeacherBase):
    """
    A model behind any OpenAI-compatible server (`vllm serve`), or vLLM in this process.

    The server's address is environment only (VLLM_BASE_URL). `engine: offline` needs the vllm
    package in the worker's own environment; `engine_options` go to vllm.LLM (max_model_len,
    tensor_parallel_size, quantization, ...). `usd_per_gpu_hour`: what the server costs as a whole,
    shared out over `pace.max_concurrency` requests at a time; None: nothing.
    `rationale_logprobs`: keep so many of the likeliest tokens at each token of the rationale, for
    training.token_distillation; the cache then holds some kilobytes an answer.
    """

    kind: Literal["vllm"]
    model: str
    engine: Literal["server", "offline"] = "server"
    engine_options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    logprobs: bool = True
    rationale_logprobs: int | None = Field(default=None, gt=0, le=20, exclude_if=unset)
    usd_per_gpu_hour: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples are all the same at temperature 0; set temperature, e.g. 0.7")
        if self.rationale_logprobs and (not self.logprobs or self.rationale == "none"):
            raise ValueError("rationale_logprobs needs logprobs: true and a rationale")
        if self.engine_options and self.engine != "offline":
            raise ValueError("engine_options are for engine: offline; a server has its own flags")
        return self


TeacherConfig = Annotated[
    RecordedTeacher | ClaudeTeacher | VllmTeacher, Field(discriminator="kind")
]


class GoldProbe(Section):
    """Before money is spent: `rows` gold texts of the training part must be answered this well."""

    rows: int = Field(default=64, ge=0)
    min_accuracy: float = Field(default=0.7, ge=0, le=1)


class LabellingConfig(Section):
    """
    How a labelling job runs.

    `max_usd` is the budget of the job over all its teachers; None: no limit. The first
    `smoke_rows` are asked and judged before the rest is paid for. `accept_volatile_cache` pays for
    answers although Redis may lose them. `accept_terms` names entries of configs/terms.yaml whose
    outputs the owner of the run may train on although the table keeps them for comparison.
    """

    chunk_rows: int = Field(default=500, gt=0)
    max_usd: float | None = Field(default=None, gt=0)
    smoke_rows: int = Field(default=16, ge=0)
    min_parse_rate: float = Field(default=0.8, ge=0, le=1)
    probe: GoldProbe = GoldProbe()
    repair: bool = True
    min_confidence: float | None = Field(default=None, ge=0, le=1)
    max_rationale_words: int = Field(default=120, gt=0)
    accept_terms: list[str] = Field(default_factory=list)
    accept_volatile_cache: bool = False


class Aggregation(Section):
    """
    How several answers to one text become one.

    single: one teacher, votes of its samples. vote: every teacher one vote, shared among its
    samples. weighted: votes weigh by each teacher's accuracy. dawid_skene: by its confusion matrix.
    cascade: the teachers are asked in order, cheapest first, and the next one only where the last
    is unsure: samples disagree, or the probability of its label (without logprobs: its stated
    confidence) is below `sure_above`. `learn_from`: accuracies come from agreement alone, or from
    the gold probe as well.
    """

    kind: Literal["single", "vote", "weighted", "dawid_skene", "cascade"] = "single"
    sure_above: float = Field(default=0.9, ge=0, le=1)
    learn_from: Literal["agreement", "probe"] = "probe"
