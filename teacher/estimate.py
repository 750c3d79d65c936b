"""What labelling would cost, before anything is asked."""

from collections.abc import Iterable, Iterator
from itertools import islice

from common.records import Example, Record
from teacher.base import Question, Teacher
from teacher.cache import AnswerCache
from teacher.prices import Price, Tokens

_BLOCK = 1000
# What a label, one or two sentences and a confidence take, where no cached answer tells better.
USUAL_OUTPUT_TOKENS = 80


class Estimate(Record):
    """
    Rows, questions and money. Tokens and dollars are those of `to_ask` alone.

    `questions` = `cached` + `duplicates` + `to_ask` (each sample is a question). `usd_live` and
    `usd_batch` expect `output_tokens_each` per answer (`measured` on the cached ones, else a usual
    length) and are None for a model without a price; `usd_at_most` takes every answer at its limit.
    """

    teacher: str
    rows: int
    questions: int
    cached: int
    duplicates: int
    to_ask: int
    input_tokens: int
    output_tokens: int
    output_tokens_each: float
    measured: bool
    usd_live: float | None
    usd_batch: float | None
    usd_at_most: float


def estimate(
    examples: Iterable[Example], teacher: Teacher, cache: AnswerCache, price: Price | None = None
) -> Estimate:
    """
    Go over all examples once. Memory: one number for each distinct question.

    `price`: that of the teacher's model (teacher.prices.price_of); None where requests are free.
    """
    sums = _Sums()
    blocks = iter(examples)
    while block := list(islice(blocks, _BLOCK)):
        sums.rows += len(block)
        questions = [teacher.question(e, s) for e in block for s in range(teacher.samples)]
        sums.add(list(sums.new(questions)), cache)
    each = sums.output_tokens_each
    expected = Tokens(input=sums.input_tokens, output=round(each * sums.to_ask))
    return Estimate(
        teacher=teacher.name,
        rows=sums.rows,
        questions=sums.questions,
        cached=sums.cached,
        duplicates=sums.questions - sums.cached - sums.to_ask,
        to_ask=sums.to_ask,
        input_tokens=expected.input,
        output_tokens=expected.output,
        output_tokens_each=each,
        measured=bool(sums.cached_tokens),
        usd_live=_usd(price, sums, each, batch=False),
        usd_batch=_usd(price, sums, each, batch=True),
        usd_at_most=sums.usd_at_most,
    )


class _Sums:
    """What was counted so far."""

    def __init__(self) -> None:
        self.rows = self.questions = self.cached = self.to_ask = 0
        self.input_tokens = self.cached_tokens = 0
        self.usd_at_most = 0.0
        self._seen: set[int] = set()

    def new(self, questions: list[Question]) -> Iterator[Question]:
        """Those not met before: a text that stands twice is asked once."""
        self.questions += len(questions)
        for question in questions:
            mark = int(question.key[:16], 16)
            if mark not in self._seen:
                self._seen.add(mark)
                yield question

    def add(self, questions: list[Question], cache: AnswerCache) -> None:
        """Count the cached and add up the others."""
        entries = cache.look_up([question.key for question in questions])
        for question, entry in zip(questions, entries, strict=True):
            if entry is not None:
                self.cached += 1
                self.cached_tokens += entry.reply.usage.output_tokens
                continue
            self.to_ask += 1
            self.input_tokens += question.input_tokens
            self.usd_at_most += question.most_usd

    @property
    def output_tokens_each(self) -> float:
        """Per answer: measured on cached ones where there are any."""
        return self.cached_tokens / self.cached if self.cached_tokens else USUAL_OUTPUT_TOKENS


def _usd(price: Price | None, sums: _Sums, each: float, batch: bool) -> float | None:
    """Of one mean request times their number: a tier for long prompts holds per request."""
    if price is None:
        return None
    if not sums.to_ask:
        return 0.0
    mean = Tokens(input=round(sums.input_tokens / sums.to_ask), output=round(each))
    return price.usd(mean, batch) * sums.to_ask
