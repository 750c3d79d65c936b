"""From a teacher's configuration to the teacher."""

from dataclasses import dataclass
from typing import assert_never

from common.config.teacher import ClaudeTeacher, RecordedTeacher, TeacherConfig, VllmTeacher
from common.errors import UsageError
from common.task import TaskDefinition
from teacher.base import Teacher
from teacher.prompts import BoundPrompt, load_prompt


@dataclass(frozen=True)
class TeacherSettings:
    """Keys and addresses of this installation, read from the environment by the caller."""

    anthropic_api_key: str | None = None
    anthropic_base_url: str | None = None
    vllm_base_url: str | None = None
    vllm_api_key: str | None = None

    def __repr__(self) -> str:
        """Without secrets: settings may land in a log."""
        return "TeacherSettings(...)"


def build_teacher(
    config: TeacherConfig, task: TaskDefinition, settings: TeacherSettings
) -> Teacher:
    """
    The teacher a configuration describes. Close it when done.

    Raises UsageError naming the environment variable that is missing, ConfigError for an
    unknown prompt, InputError for a file of recorded answers that cannot be used.
    """
    bound = bind_prompt(config, task)
    match config:
        case RecordedTeacher():
            from teacher.backends.recorded import Recorded

            return Recorded(config, bound)
        case ClaudeTeacher():
            return _claude(config, bound, settings)
        case VllmTeacher():
            return _vllm(config, bound, settings)
        case _:
            assert_never(config)


def bind_prompt(config: TeacherConfig, task: TaskDefinition) -> BoundPrompt:
    """The question a configuration puts: its prompt, or the task's, filled in."""
    return load_prompt(config.prompt or task.teacher_prompt).bind(task, config.rationale)


def _claude(config: ClaudeTeacher, bound: BoundPrompt, settings: TeacherSettings) -> Teacher:
    from teacher.backends.claude import ADDRESS, Claude

    if not settings.anthropic_api_key:
        raise UsageError(
            f"teacher '{config.name or config.model}' needs an Anthropic API key: set "
            "ANTHROPIC_API_KEY in the environment of every worker."
        )
    address = settings.anthropic_base_url or ADDRESS
    return Claude(config, bound, settings.anthropic_api_key, address)


def _vllm(config: VllmTeacher, bound: BoundPrompt, settings: TeacherSettings) -> Teacher:
    from teacher.backends.vllm import Vllm
    from teacher.backends.vllm_offline import VllmOffline

    if config.engine == "offline":
        return VllmOffline(config, bound)
    if not settings.vllm_base_url:
        raise UsageError(
            f"teacher '{config.name or config.model}' needs the address of its server: set "
            "VLLM_BASE_URL, e.g. http://localhost:8000, in the environment of every worker."
        )
    return Vllm(config, bound, settings.vllm_base_url, settings.vllm_api_key)
