"""The question put to a teacher: configs/prompts/NAME.yaml with a task's labels filled in."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from common.config.base import Section, describe_faults, suggestion
from common.config.teacher import RationaleOrder
from common.errors import ConfigError
from common.fingerprint import digest
from common.records import Example
from common.task import CONFIGS, TaskDefinition

Message = dict[str, str]


class FewShot(Section):
    """A worked example in the prompt. Its id and text are checked against the test part."""

    id: str
    text: str
    label: str
    rationale: str
    confidence: float = 0.95


class RationaleWording(Section):
    """What the system text says about reasons, by their place."""

    before_label: str
    after_label: str
    none: str


class Prompt(Section):
    """
    One prompt file. `confidence` is the wording that asks for one; empty: none is asked for.

    Placeholders: {labels}, {names}, {text_name}; in `system` also {rationale} and {confidence},
    in `repair` also {fault}.
    """

    name: str
    version: int
    language: Literal["en", "any"] = "en"
    system: str
    rationale: RationaleWording
    confidence: str = ""
    repair: str
    few_shots: list[FewShot] = Field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Digest of the whole file's content."""
        return digest(self)

    def bind(self, task: TaskDefinition, rationale: RationaleOrder) -> "BoundPrompt":
        """Fill in the task and the place of the rationale: all that is constant over a job."""
        return BoundPrompt(self, task, rationale)

    def render(
        self, example: Example, task: TaskDefinition, rationale: RationaleOrder
    ) -> list[Message]:
        """The whole conversation for one example, the system message first and its text last."""
        bound = self.bind(task, rationale)
        return [{"role": "system", "content": bound.system}, *bound.messages(example.text)]


@dataclass(frozen=True)
class BoundPrompt:
    """
    A prompt with its task: `system`, `schema` and `fingerprint` are computed once per job.

    `fingerprint` covers everything of a question but its text: wording, labels, few-shots, schema.
    """

    prompt: Prompt
    task: TaskDefinition
    rationale: RationaleOrder
    _tag: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # "</sentence>", "< / SENTENCE >" and model control tokens such as "<|eot_id|>": the first
        # would end our quotation, the second would end the turn in servers that tokenise them.
        name = re.escape(self.task.text_name)
        object.__setattr__(self, "_tag", re.compile(rf"<(?=\s*/?\s*{name}\s*>|\|)", re.I))

    @cached_property
    def system(self) -> str:
        """The system text with labels, their descriptions and the wording for the rationale."""
        wording = self._fill(getattr(self.prompt.rationale, self.rationale)).strip()
        confidence = self._fill(self.prompt.confidence).strip()
        filled = self._fill(self.prompt.system, rationale=wording, confidence=confidence)
        return re.sub(r"\n{3,}", "\n\n", filled).strip()

    def _fill(self, template: str, **more: str) -> str:
        labels = self.task.labels
        values = {
            "labels": "\n".join(f'- "{lb.name}": {lb.description}'.rstrip(" :") for lb in labels),
            "names": ", ".join(f'"{label.name}"' for label in labels),
            "text_name": self.task.text_name,
            **more,
        }
        return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), template)

    def quote(self, text: str) -> str:
        """The text as delimited data; what could close the delimiter is made harmless."""
        name = self.task.text_name
        return f"<{name}>\n{self._tag.sub('‹', text)}\n</{name}>"  # noqa: RUF001

    def messages(self, text: str) -> list[Message]:
        """Few-shots and the text, without the system message. The text comes last."""
        return [*self._shots, {"role": "user", "content": self.quote(text)}]

    @cached_property
    def _shots(self) -> list[Message]:
        turns: list[Message] = []
        for shot in self.prompt.few_shots:
            content = {key: getattr(shot, key) for key in self.keys}
            turns.append({"role": "user", "content": self.quote(shot.text)})
            turns.append({"role": "assistant", "content": json.dumps(content, ensure_ascii=False)})
        return turns

    @cached_property
    def keys(self) -> list[str]:
        """The keys of the answer in the order in which the teacher writes them."""
        order = {
            "before_label": ["rationale", "label"],
            "after_label": ["label", "rationale"],
            "none": ["label"],
        }[self.rationale]
        return [*order, "confidence"] if self.prompt.confidence else order

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the answer; the order of the properties is the order of writing."""
        properties: Mapping[str, Mapping[str, Any]] = {
            "label": {"type": "string", "enum": self.task.label_names},
            "rationale": {"type": "string"},
            "confidence": {"type": "number"},
        }
        return {
            "type": "object",
            "properties": {key: dict(properties[key]) for key in self.keys},
            "required": list(self.keys),
            "additionalProperties": False,
        }

    def repair_message(self, fault: str) -> str:
        """The user turn that follows an answer which could not be used."""
        return self._fill(self.prompt.repair, fault=fault).strip()

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all that is asked besides the text."""
        return digest(
            {
                "prompt": [self.prompt.name, self.prompt.version],
                "system": self.system,
                "shots": self._shots,
                "quote": self.quote(""),
                # as a string: canonical JSON sorts keys, and the order of properties matters here
                "schema": json.dumps(self.schema),
            }
        )


def load_prompt(name: str, folder: Path | None = None) -> Prompt:
    """Read configs/prompts/NAME.yaml. Raises ConfigError naming what is wrong and what there is."""
    folder = folder or CONFIGS / "prompts"
    path = folder / f"{name}.yaml"
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigError(
            f"prompt: there is no prompt '{name}'{suggestion(name, known)}; "
            f"{folder} defines {', '.join(known)}."
        )
    try:
        return Prompt.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(describe_faults(f"prompt file {path}", error, Prompt)) from error
