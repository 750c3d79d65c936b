"""From a job's finished batches to its answers; nothing given up there is asked live instead."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from common.config.teacher import LabellingConfig
from common.records import Example, Reason, TeacherAnswer, Unanswered
from teacher.base import Question, Teacher
from teacher.labelling import label_examples
from teacher.services import LabellingServices

AnyAnswer = TeacherAnswer | Unanswered


def questions_of(examples: Iterable[Example], teacher: Teacher) -> Iterator[Question]:
    """Every sample's question of every example, samples of one example together."""
    for example in examples:
        for sample in range(teacher.samples):
            yield teacher.question(example, sample)


def label_after_batches(
    examples: Sequence[Example],
    teacher: Teacher,
    labelling: LabellingConfig,
    services: LabellingServices,
    given_up: Mapping[str, str],
) -> list[AnyAnswer]:
    """
    What `label_examples` returns, in its order, once `advance_batches` is finished.

    `given_up` are BatchLedger.failures of the job: such questions become Unanswered. Answers that
    cannot be used get their one repair live, at the live price.
    """
    keys = {e.id: [question.key for question in questions_of([e], teacher)] for e in examples}
    whole = [e for e in examples if not any(key in given_up for key in keys[e.id])]
    answers = label_examples(whole, teacher, labelling, services) if whole else []
    waiting, labelled = iter(answers), {example.id for example in whole}
    found: list[AnyAnswer] = []
    for example in examples:
        if example.id in labelled:
            found += [next(waiting) for _ in range(teacher.samples)]
        else:
            found += _part(example, teacher, services, given_up)
    return found


def _part(
    example: Example, teacher: Teacher, services: LabellingServices, given_up: Mapping[str, str]
) -> list[AnyAnswer]:
    """An example of which a sample was given up: what there is of the others, without repair."""
    questions = list(questions_of([example], teacher))
    entries = services.cache.look_up([question.key for question in questions])
    answers: list[AnyAnswer] = []
    for question, entry in zip(questions, entries, strict=True):
        if entry:
            answer = teacher.read(question, entry.reply)
            answers.append(answer.model_copy(update={"cached": True}))
        else:
            why = given_up.get(question.key, "no batch has answered it")
            answers.append(_unanswered(question, teacher, why))
    failed = sum(isinstance(answer, Unanswered) for answer in answers)
    services.count(done=len(answers), cached=len(answers) - failed, failed=failed)
    return answers


def _unanswered(question: Question, teacher: Teacher, why: str) -> Unanswered:
    reason = Reason.REJECTED if why.startswith("rejected") else Reason.UNAVAILABLE
    return Unanswered(
        example_id=question.example_id,
        teacher=teacher.name,
        sample=question.sample,
        reason=reason,
        detail=f"in its batch: {why}",
        key=question.key,
    )
