"""The cheap teacher first, the dear one only where the first leaves doubt."""

from collections.abc import Iterable, Sequence

from common.config.teacher import Aggregation
from common.records import Example
from teacher.votes import AnyAnswer, unsure


def rows_for_next(
    examples: Sequence[Example],
    answers_so_far: Iterable[AnyAnswer],
    aggregation: Aggregation,
) -> list[Example]:
    """
    The examples that the next teacher shall be asked, in their order.

    Every kind but `cascade` asks everybody everything. A cascade goes on where the teacher asked
    last is unsure, and where it gave no answer at all. `answers_so_far` come in the order in
    which the teachers were asked.
    """
    if aggregation.kind != "cascade":
        return list(examples)
    latest: dict[str, list[AnyAnswer]] = {}
    for answer in answers_so_far:
        own = latest.setdefault(answer.example_id, [])
        if own and own[0].teacher != answer.teacher:
            own.clear()
        own.append(answer)
    return [
        example
        for example in examples
        if unsure(latest.get(example.id, ()), aggregation.sure_above)
    ]
