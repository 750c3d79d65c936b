"""A task is data, not code: labels, prompts and metrics read from configs/tasks/NAME.yaml."""

from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from common.config.base import Section, describe_faults, suggestion
from common.errors import ConfigError
from common.labels import LabelSet

PROJECT_ROOT = Path(__file__).resolve().parents[1]
CONFIGS = PROJECT_ROOT / "configs"


class Label(Section):
    """One label: its name in every file, other names it goes by, what it means to a teacher."""

    name: str
    aliases: list[str] = Field(default_factory=list)
    description: str = ""


class StudentPrompt(Section):
    """The words around a text in a student's input; `predict` and `explain` are the task words."""

    before: str = ""
    after: str = ""
    predict: str = "predict: "
    explain: str = "explain: "


class LenientReading(Section):
    """Another reading of free text: the first of `order` it contains, else `otherwise`."""

    order: list[str]
    otherwise: str


class TaskDefinition(Section):
    """Everything the code needs to know of a task."""

    name: str
    title: str
    kind: Literal["classification"] = "classification"
    text_name: str = "text"
    labels: list[Label] = Field(min_length=2)
    teacher_prompt: str
    student_prompts: dict[str, StudentPrompt] = Field(default_factory=dict)
    lenient_reading: LenientReading | None = None
    metrics: list[str] = Field(default_factory=lambda: ["accuracy", "macro_f1", "weighted_f1"])

    @model_validator(mode="after")
    def _names_belong(self) -> Self:
        names = [label.name for label in self.labels]
        if len(set(names)) != len(names):
            raise ValueError(f"labels: every name once, got {names}")
        reading = self.lenient_reading
        strangers = {*reading.order, reading.otherwise} - set(names) if reading else set()
        if strangers:
            raise ValueError(f"lenient_reading names {sorted(strangers)}, not among {names}")
        return self

    @property
    def label_names(self) -> list[str]:
        """The labels in their fixed order."""
        return [label.name for label in self.labels]

    @property
    def label_set(self) -> LabelSet:
        """The labels with their aliases, ready to read texts."""
        return LabelSet(self.label_names, {label.name: label.aliases for label in self.labels})

    def student_prompt(self, name: str) -> StudentPrompt:
        """The named student prompt. Raises ConfigError for a name the task does not define."""
        known = {"default": StudentPrompt(), **self.student_prompts}
        if name not in known:
            raise ConfigError(
                f"student.prompt: task '{self.name}' has no student prompt '{name}'"
                f"{suggestion(name, known)}; it defines {', '.join(sorted(known))}."
            )
        return known[name]


def load_task(name: str, folder: Path | None = None) -> TaskDefinition:
    """Read configs/tasks/NAME.yaml. Raises ConfigError naming what is wrong and what there is."""
    folder = folder or CONFIGS / "tasks"
    path = folder / f"{name}.yaml"
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigError(
            f"task: there is no task '{name}'{suggestion(name, known)}; "
            f"{folder} defines {', '.join(known)}."
        )
    try:
        return TaskDefinition.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(describe_faults(f"task file {path}", error)) from error
