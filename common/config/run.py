"""A whole run: data, teachers, student, baselines, evaluation."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.config.base import Section, Seed
from common.config.data import DataConfig
from common.config.student import StudentConfig
from common.config.teacher import Aggregation, ClaudeTeacher, LabellingConfig, TeacherConfig
from common.config.training import TrainingConfig
from common.fingerprint import digest


class MajorityBaseline(Section):
    """Always the label that is most frequent in the training part."""

    kind: Literal["majority"]


class TfidfBaseline(Section):
    """TF-IDF (word 1-2-grams) and logistic regression, on gold or on the teacher's labels."""

    kind: Literal["tfidf"]
    labels: Literal["teacher", "gold"] = "teacher"


class TrainedBaseline(Section):
    """Another student with a training of its own: the label-only twin, a LoRA baseline."""

    kind: Literal["student"]
    title: str | None = None
    student: StudentConfig
    training: TrainingConfig = TrainingConfig()


BaselineConfig = Annotated[
    MajorityBaseline | TfidfBaseline | TrainedBaseline, Field(discriminator="kind")
]


class EvaluationConfig(Section):
    """
    How systems are judged. `rationale_rows`: how many test texts each student explains, drawn
    with `seed` so that every label has its share and all runs explain the same ones.

    `bootstrap` resamples for every interval and permutation test; `alpha` is the error rate of
    a family of comparisons; `seed` also fixes the resampling. `browse_rows` caps the texts shown.
    `encoder` (a local folder or hub name) adds sentence similarity and BERTScore of rationales.
    `usd_per_hour`: what the machine that predicts costs; gives the price of 1,000 texts.
    """

    bootstrap: int = Field(default=10_000, ge=100)
    confidence_level: float = Field(default=0.95, gt=0.5, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    seed: Seed = 20
    calibration_bins: int = Field(default=15, gt=1)
    browse_rows: int = Field(default=2000, ge=0)
    encoder: str | None = None
    batch_size: int = Field(default=32, gt=0)
    rationale_rows: int = Field(default=40, ge=0)
    usd_per_hour: float | None = Field(default=None, ge=0)


class RunConfig(Section):
    """
    Everything one run needs. The resolved config, not the file, is stored and hashed.

    `student` (with `training`) is the system under test; `baselines` are judged beside it under
    the names they are given here.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    task: str
    seed: Seed = 13
    description: str = ""
    data: DataConfig
    teacher: TeacherConfig | None = None
    teachers: list[TeacherConfig] = Field(default_factory=list)
    aggregation: Aggregation = Aggregation()
    labelling: LabellingConfig = LabellingConfig()
    student: StudentConfig | None = None
    training: TrainingConfig = TrainingConfig()
    baselines: dict[
        Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")], BaselineConfig
    ] = Field(default_factory=dict)
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.teacher and self.teachers:
            raise ValueError("give `teacher` or `teachers`, not both")
        batches = [
            t for t in self.all_teachers if isinstance(t, ClaudeTeacher) and t.mode == "batch"
        ]
        if batches and self.aggregation.kind == "cascade":
            raise ValueError(
                "a cascade asks row by row and cannot wait for batches: set mode: live"
            )
        if len(self.teachers) > 1 and self.aggregation.kind == "single":
            raise ValueError(
                "several teachers need an aggregation: vote, weighted, dawid_skene or cascade"
            )
        if len(self.all_teachers) == 1 and self.aggregation.kind not in ("single", "vote"):
            raise ValueError(
                f"aggregation.kind: '{self.aggregation.kind}' compares several teachers, got one"
            )
        if {"student", "teacher"} & self.baselines.keys():
            raise ValueError("baselines: the names 'student' and 'teacher' are taken")
        if not self.all_teachers and self.needs_teacher:
            raise ValueError("labels: teacher is asked for, but the config names no teacher")
        return self

    @property
    def all_teachers(self) -> list[TeacherConfig]:
        """The teachers in order, however they were given."""
        return [self.teacher] if self.teacher else list(self.teachers)

    @property
    def needs_teacher(self) -> bool:
        """Whether anything here is trained on a teacher's labels."""
        trained = [self.training] if self.student else []
        labels = [t.labels for t in trained]
        for baseline in self.baselines.values():
            if isinstance(baseline, TrainedBaseline):
                labels.append(baseline.training.labels)
            elif isinstance(baseline, TfidfBaseline):
                labels.append(baseline.labels)
        return "teacher" in labels

    @property
    def trained_systems(self) -> dict[str, tuple[StudentConfig, TrainingConfig]]:
        """Every system that is trained, by name, with its own seed filled in."""
        systems = {"student": (self.student, self.training)} if self.student else {}
        for name, baseline in self.baselines.items():
            if isinstance(baseline, TrainedBaseline):
                systems[name] = (baseline.student, baseline.training)
        return {
            name: (student, training if training.seed is not None else _seeded(training, self.seed))
            for name, (student, training) in systems.items()
        }

    @property
    def run_id(self) -> str:
        """The name and ten digits of the digest of the whole resolved config."""
        return f"{self.name}-{digest(self)[:10]}"


def _seeded(training: TrainingConfig, seed: int) -> TrainingConfig:
    return training.model_copy(update={"seed": seed})
