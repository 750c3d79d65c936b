"""One teacher with the surroundings it needs: cache, pace, money, counters."""

import threading
import time
from collections import Counter
from collections.abc import Sequence

from common.config.teacher import ClaudeTeacher, TeacherConfig
from common.errors import ServiceError
from common.records import Example, TeacherAnswer, Unanswered
from teacher.base import Teacher
from teacher.batch_answers import label_after_batches
from teacher.batch_ledger import BatchLedger
from teacher.build import TeacherSettings
from teacher.labelling import label_examples
from teacher.opened import opened_teacher
from teacher.services import (
    LabellingServices,
    check_durability,
    local_services,
    redis_services,
)
from workers.jobs import Jobs
from workers.stages.context import StageContext

AnyAnswer = TeacherAnswer | Unanswered
PAUSE_SECONDS = 0.5


class Asking:
    """One teacher with the services it needs; call it with examples."""

    def __init__(self, context: StageContext, config: TeacherConfig, tally: "Tally | None" = None):
        self._context = context
        self.config = config
        self.teacher = build(context, config)
        self.tally = tally or Tally(context, 0)
        self.services = _services(context, config, self.teacher, self.tally)

    def __call__(self, examples: Sequence[Example]) -> list[AnyAnswer]:
        """Ask now and wait for the answers."""
        labelling = self._context.config.labelling
        try:
            return label_examples(examples, self.teacher, labelling, self.services)
        finally:
            self.tally.tell()

    def collected(self, examples: Sequence[Example]) -> list[AnyAnswer]:
        """As `__call__`; what a finished batch gave up is not asked live instead."""
        context = self._context
        if not in_batches(self.config) or context.redis is None:
            return self(examples)
        given_up = BatchLedger(context.redis).failures(batch_job_id(context, self.teacher))
        labelling = context.config.labelling
        return label_after_batches(examples, self.teacher, labelling, self.services, given_up)


class Tally:
    """
    What one chunk has counted so far, reported at most twice a second; `rows` 0: of no chunk.

    What is new goes to the totals of all jobs as well.
    """

    def __init__(self, context: StageContext, rows: int):
        self._report, self._total = context.report, context.count
        self._rows = rows
        self._counts: Counter[str] = Counter()
        self._news: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._said = 0.0

    def __call__(self, **deltas: float) -> None:
        """Add to the counts; called from the labelling loop's thread."""
        with self._lock:
            self._counts.update(deltas)
            self._news.update(deltas)
            if time.monotonic() - self._said < PAUSE_SECONDS:
                return
            self._said = time.monotonic()
            self._tell()
            if self._rows:
                done = min(self._rows, int(max(self._counts["done"], self._counts["asked"])))
                self._report(done, self._rows, "rows", self.counts)

    def tell(self) -> None:
        """Let the totals have what was counted since the last time; call at the end."""
        with self._lock:
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, Counter()
        if news:
            self._total(news)

    @property
    def counts(self) -> dict[str, float]:
        """What was counted so far."""
        return dict(self._counts)


def build(context: StageContext, config: TeacherConfig) -> Teacher:
    """The teacher a config describes, with this installation's keys and addresses."""
    settings = context.settings
    return opened_teacher(
        config,
        context.task,
        TeacherSettings(
            anthropic_api_key=settings.anthropic_api_key,
            anthropic_base_url=settings.anthropic_base_url,
            vllm_base_url=settings.vllm_base_url,
            vllm_api_key=settings.vllm_api_key,
        ),
    )


def _services(
    context: StageContext, config: TeacherConfig, teacher: Teacher, tally: "Tally"
) -> LabellingServices:
    """Redis where there is one. Raises ServiceError where paid answers could be lost."""
    labelling = context.config.labelling
    if context.redis is None:
        if teacher.paid and not labelling.accept_volatile_cache:
            raise ServiceError(
                f"teacher {teacher.name} is paid for and --local keeps no answers: run without "
                "--local, or accept the loss with --accept-volatile-cache."
            )
        return local_services(labelling, config.pace, tally, context.cancelled)
    if teacher.paid:
        check_durability(context.redis, labelling.accept_volatile_cache)
    job = context.run.run_id
    if teacher.remote:
        Jobs(context.redis).note_service(job, f"{teacher.provider}:{teacher.model}")
    return redis_services(context.redis, job, labelling, config.pace, tally, context.cancelled)


def in_batches(config: TeacherConfig) -> bool:
    """Whether a teacher is asked through message batches."""
    return isinstance(config, ClaudeTeacher) and config.mode == "batch"


def batch_job_id(context: StageContext, teacher: Teacher) -> str:
    """The name under which a run's batches of one teacher are kept."""
    return f"{context.run.run_id}:{teacher.name}"
