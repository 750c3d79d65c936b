"""What a labelling job would ask and cost, before anything is asked."""

from dataclasses import replace

from common.config import RunConfig
from common.config.teacher import ClaudeTeacher, TeacherConfig
from common.data.store import read_records
from common.errors import ConfigError
from common.records import Example
from teacher.cache import AnswerCache
from teacher.estimate import Estimate, estimate
from teacher.prices import Price, price_of
from workers.graph import stages_of
from workers.pipeline import LocalRun
from workers.services import Settings
from workers.stages.asking import build
from workers.stages.context import StageContext


def estimate_run(settings: Settings, config: RunConfig, cache: AnswerCache) -> list[Estimate]:
    """
    One estimate per teacher over the rows the run would label; nobody is asked.

    Needs no key: nothing leaves this machine. Raises ConfigError for a config without a teacher.
    """
    if not config.all_teachers:
        raise ConfigError(f"label: config {config.name} names no teacher to estimate.")
    work = LocalRun(settings, config, "label", lambda job: None)
    work.execute(only=stages_of(config)["prepare"])
    keyless = replace(
        settings,
        anthropic_api_key=settings.anthropic_api_key or "not needed to estimate",
        vllm_base_url=settings.vllm_base_url or "http://127.0.0.1:8000/v1",
    )
    context = StageContext(keyless, work.run, config, lambda *_, **__: None, lambda: False)
    return [_one(context, teacher, cache) for teacher in config.all_teachers]


def _one(context: StageContext, config: TeacherConfig, cache: AnswerCache) -> Estimate:
    rows = read_records(context.run.part("to_label"), Example)
    return estimate(rows, build(context, config), cache, _price(config))


def _price(config: TeacherConfig) -> Price | None:
    return price_of(config.model) if isinstance(config, ClaudeTeacher) else None
