"""The one loop: look up, ask, retry here and nowhere else, store, read, repair."""

import asyncio
import contextlib
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from common.config.teacher import LabellingConfig
from common.errors import FinstillError, JobCancelled
from common.records import Example, Reason, TeacherAnswer, Unanswered
from teacher.asking import Asker, Failure
from teacher.base import Question, Teacher
from teacher.cache import HEARTBEAT_SECONDS, LEASE_SECONDS, Claim
from teacher.entries import Entry
from teacher.loops import off_loop, run
from teacher.services import LabellingServices

AnyAnswer = TeacherAnswer | Unanswered
_BLOCK_ROWS = 2048
T = TypeVar("T")
_CANCEL_SECONDS = 0.25
_YOUNG_OBJECTS = 20_000  # 700 by default
_POLL_SECONDS = 0.1


def label_examples(
    examples: Sequence[Example],
    teacher: Teacher,
    labelling: LabellingConfig,
    services: LabellingServices,
) -> list[AnyAnswer]:
    """
    Every sample's answer to every example, in order: samples of one example stand together.

    What is cached is not asked, and what is asked is in the cache before this returns or raises.
    Rows that fail are Unanswered. Raises JobPaused at the budget, JobCancelled, TeacherRejected
    when no row can ever work, TeacherError when none does, ServiceError without Redis.
    """
    _spare_the_garbage_collector()
    return run(answers_to(examples, teacher, labelling, services))


async def answers_to(
    examples: Sequence[Example],
    teacher: Teacher,
    labelling: LabellingConfig,
    services: LabellingServices,
) -> list[AnyAnswer]:
    """`label_examples` for callers that have a loop already."""
    answers: list[AnyAnswer] = []
    for start in range(0, len(examples), _BLOCK_ROWS):
        block = _Block(teacher, labelling, services)
        answers += await block.label(examples[start : start + _BLOCK_ROWS])
    return answers


@dataclass(frozen=True, slots=True)
class _Found:
    """A reply, from the cache or just paid, or why there is none."""

    outcome: Entry | Failure
    cached: bool


class _Block:
    """One pass over some thousand rows at most."""

    def __init__(self, teacher: Teacher, labelling: LabellingConfig, services: LabellingServices):
        self._teacher = teacher
        self._labelling = labelling
        self._services = services
        self._leased: set[str] = set()
        self._heard: dict[int, AnyAnswer] = {}

    async def label(self, examples: Sequence[Example]) -> list[AnyAnswer]:
        """See `label_examples`."""
        questions = [
            self._teacher.question(example, sample)
            for example in examples
            for sample in range(self._teacher.samples)
        ]
        found = await self._obtain({question.key: question for question in questions})
        first = self._read_all(questions, found)
        answers = await self._repair(questions, first, found) if self._labelling.repair else first
        self._services.count(
            done=len(answers),
            cached=sum(answer.cached for answer in answers),
            failed=sum(isinstance(answer, Unanswered) for answer in answers),
        )
        return answers

    def _read_all(self, questions: Sequence[Question], found: dict[str, _Found]) -> list[AnyAnswer]:
        told: set[str] = set()
        answers = []
        for question in questions:
            here = found[question.key]
            again = question.key in told  # a text that stands twice is paid once
            answers.append(self._read(question, here, cached=here.cached or again))
            told.add(question.key)
        return answers

    def _read(self, question: Question, found: _Found, cached: bool) -> AnyAnswer:
        outcome = found.outcome
        if isinstance(outcome, Failure):
            return Unanswered(
                example_id=question.example_id,
                teacher=self._teacher.name,
                sample=question.sample,
                reason=outcome.reason,
                detail=outcome.detail,
                key=question.key,
            )
        answer = self._heard.pop(id(question), None)
        if answer is None:
            answer = self._teacher.read(question, outcome.reply)
        answer = _not_too_long(answer, self._labelling.max_rationale_words)
        return answer.model_copy(update={"cached": cached}) if cached else answer

    async def _repair(
        self, questions: Sequence[Question], first: list[AnyAnswer], found: dict[str, _Found]
    ) -> list[AnyAnswer]:
        """One more question for each answer that could not be used."""
        again: dict[int, Question] = {}
        for place, (question, answer) in enumerate(zip(questions, first, strict=True)):
            outcome = found[question.key].outcome
            if isinstance(answer, Unanswered) and isinstance(outcome, Entry):
                second = self._teacher.repair(question, outcome.reply, answer)
                if second is not None:
                    again[place] = second
        if not again:
            return first
        mended = await self._obtain({question.key: question for question in again.values()})
        second_answers = self._read_all(list(again.values()), mended)
        self._services.count(repaired=sum(isinstance(a, TeacherAnswer) for a in second_answers))
        answers = list(first)
        for place, answer in zip(again, second_answers, strict=True):
            answers[place] = _with_cost_of(first[place], answer)
        return answers

    async def _obtain(self, questions: dict[str, Question]) -> dict[str, _Found]:
        """A reply or a failure for every key."""
        keys = list(questions)
        entries = self._services.cache.look_up(keys)
        found = {k: _Found(e, True) for k, e in zip(keys, entries, strict=True) if e is not None}
        missing = {key: question for key, question in questions.items() if key not in found}
        if missing:
            found |= await self._ask(missing)
        return found

    async def _ask(self, missing: dict[str, Question]) -> dict[str, _Found]:
        """Ask what nobody else asks; wait for what somebody does. Gives unused leases back."""
        found: dict[str, _Found] = {}
        asker = Asker(self._teacher, self._services)
        watch = asyncio.create_task(self._watch(asker))
        try:
            async with asker:
                while missing and not asker.fault:
                    await self._ask_round(asker, missing, found)
                    missing = {k: q for k, q in missing.items() if k not in found}
                    if missing and not asker.fault:
                        await self._services.sleep(_POLL_SECONDS)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await self._release(self._leased)
        self._heard = asker.read
        if asker.fault:
            raise asker.fault
        return found

    async def _ask_round(
        self, asker: Asker, missing: dict[str, Question], found: dict[str, _Found]
    ) -> None:
        mine = await self._claim(missing, found)
        replies = await asker.ask_all([missing[key] for key in mine])
        found |= {key: _Found(reply, False) for key, reply in replies.items()}
        self._leased -= {key for key, reply in replies.items() if isinstance(reply, Entry)}
        await self._release(self._leased)

    async def _claim(self, missing: dict[str, Question], found: dict[str, _Found]) -> list[str]:
        """Lease what is free; take over what others have answered meanwhile."""
        services, keys = self._services, list(missing)
        cache = services.cache
        claims = await off_loop(cache.blocks, cache.claim, keys, services.owner, LEASE_SECONDS)
        for key, claim in zip(keys, claims, strict=True):
            if isinstance(claim, Entry):
                found[key] = _Found(claim, True)
        mine = [key for key, claim in zip(keys, claims, strict=True) if claim is Claim.MINE]
        self._leased.update(mine)
        return mine

    async def _release(self, leased: set[str]) -> None:
        """Give leases without an answer back, so that others need not wait."""
        if leased:
            cache, keys = self._services.cache, list(leased)
            leased.clear()
            await off_loop(cache.blocks, cache.release, keys, self._services.owner)

    async def _watch(self, asker: Asker) -> None:
        """Keep our leases alive, and notice when somebody cancels the job."""
        services, cache = self._services, self._services.cache
        beats = 0
        while True:
            await _in_thread(cache.blocks, asker.counts.tell)
            if await _in_thread(cache.blocks, services.cancelled):
                asker.stop(JobCancelled("the job was cancelled; what was answered is kept."))
                return
            if beats % int(HEARTBEAT_SECONDS / 4 / _CANCEL_SECONDS) == 0:
                with contextlib.suppress(FinstillError, OSError):
                    given = (services.owner, HEARTBEAT_SECONDS, list(self._leased))
                    await off_loop(cache.blocks, cache.beat, *given)
            beats += 1
            await asyncio.sleep(_CANCEL_SECONDS)


@lru_cache(maxsize=1)
def _spare_the_garbage_collector() -> None:
    """
    Once a process: what was imported by now stays for good, and young objects are gone over less.

    A third of a cached row's time and a quarter of an asked row's went into the collector: a
    request makes hundreds of objects and hardly a cycle.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])


async def _in_thread(blocks: bool, call: Callable[[], T]) -> T:
    """For calls of others, which know no hurry."""
    return await asyncio.to_thread(call) if blocks else call()


def _not_too_long(answer: AnyAnswer, most_words: int) -> AnyAnswer:
    if isinstance(answer, Unanswered) or answer.rationale is None:
        return answer
    words = len(answer.rationale.split())
    if words <= most_words:
        return answer
    return Unanswered(
        example_id=answer.example_id,
        teacher=answer.teacher,
        sample=answer.sample,
        reason=Reason.RATIONALE_LENGTH,
        detail=f"its rationale has {words} words, at most {most_words} are wanted.",
        key=answer.key,
        usage=answer.usage,
    )


def _with_cost_of(first: AnyAnswer, second: AnyAnswer) -> AnyAnswer:
    """The repaired answer under the first one's index; what both cost, unless both were free."""
    usage = second.usage
    if first.cached == second.cached:
        usage = first.usage + second.usage
    elif second.cached:
        usage = first.usage
    cached = first.cached and second.cached
    return second.model_copy(update={"usage": usage, "cached": cached})
