"""Several answers to one text become one label; every expected number is worked out by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from common.config.teacher import Aggregation
from common.errors import ConfigError
from common.records import Reason, TeacherAnswer, Unanswered
from common.task import Label, TaskDefinition
from teacher.aggregate import Aggregated, Dropped, aggregate
from teacher.dawid_skene import PRIOR_ROWS, learn_reliability
from teacher.vote_table import EvenSample, Row, vote_table
from teacher.votes import AnyAnswer, ballots, in_row_order, opinion_of

TASK = TaskDefinition(
    name="weather",
    title="Weather",
    labels=[Label(name="dry"), Label(name="wet"), Label(name="mixed")],
    teacher_prompt="weather-v1",
)
LABELS = TASK.label_names


def say(
    example: str,
    teacher: str,
    label: str | None,
    sample: int = 0,
    rationale: str | None = None,
    confidence: float | None = None,
    probabilities: dict[str, float] | None = None,
) -> AnyAnswer:
    if label is None:
        return Unanswered(
            example_id=example, teacher=teacher, sample=sample, reason=Reason.NOT_JSON
        )
    return TeacherAnswer(
        example_id=example,
        teacher=teacher,
        sample=sample,
        label=label,
        rationale=rationale,
        confidence=confidence,
        probabilities=probabilities,
    )


def decide(
    answers: Sequence[AnyAnswer],
    kind: str = "single",
    teachers: Sequence[str] = ("a",),
    gold: dict[str, str] | None = None,
    **settings: float,
) -> list[Aggregated | Dropped]:
    low = settings.pop("min_confidence", None)
    config = Aggregation.model_validate({"kind": kind, **settings})
    return list(aggregate(answers, TASK, config, teachers, gold, low))


def only(results: list[Aggregated | Dropped]) -> Aggregated:
    (result,) = results
    assert isinstance(result, Aggregated)
    return result


def test_vote_shares_of_the_samples_become_probabilities() -> None:
    answers = [say("x", "a", label, i) for i, label in enumerate(["wet", "dry", "wet"])]

    result = only(decide(answers))

    assert result.label == "wet"
    assert result.probabilities == pytest.approx({"dry": 1 / 3, "wet": 2 / 3, "mixed": 0})
    assert result.confidence == pytest.approx(2 / 3)
    assert result.said == {"a": ["wet", "dry", "wet"]}


def test_one_sample_keeps_the_probabilities_of_the_service() -> None:
    odds = {"dry": 0.2, "wet": 0.7, "mixed": 0.1}

    result = only(decide([say("x", "a", "wet", probabilities=odds, confidence=0.99)]))

    assert result.probabilities == odds
    assert result.confidence == 0.7


def test_one_sample_without_logprobs_keeps_the_stated_confidence_and_invents_no_odds() -> None:
    result = only(decide([say("x", "a", "wet", confidence=0.8)]))

    assert result.probabilities is None
    assert result.confidence == 0.8


@pytest.mark.parametrize(
    ("samples", "winner"),
    [
        ([("wet", 0.6), ("dry", 0.9)], "dry"),  # the surer one
        ([("wet", 0.9), ("dry", 0.6)], "wet"),
        ([("wet", None), ("dry", None)], "wet"),  # the earlier one, not the task's first label
    ],
)
def test_a_tie_of_samples_goes_to_the_surer_then_to_the_earlier(
    samples: list[tuple[str, float | None]], winner: str
) -> None:
    answers = [say("x", "a", label, i, confidence=c) for i, (label, c) in enumerate(samples)]

    assert only(decide(answers)).label == winner


def test_unusable_samples_do_not_vote_and_are_on_record() -> None:
    answers = [say("x", "a", None, 0), say("x", "a", "wet", 1), say("x", "a", "wet", 2)]

    result = only(decide(answers))

    assert result.probabilities == {"dry": 0.0, "wet": 1.0, "mixed": 0.0}
    assert result.said == {"a": [None, "wet", "wet"]}


def test_a_text_without_any_usable_answer_is_dropped_with_its_reason() -> None:
    (result,) = decide([say("x", "a", None), say("x", "b", None)], "vote", ["a", "b"])

    assert isinstance(result, Dropped)
    assert result.reason == "not_json"
    assert result.said == {"a": [None], "b": [None]}


def test_a_text_below_the_least_confidence_is_dropped_and_one_without_confidence_is_not() -> None:
    answers = [
        say("x", "a", "wet", confidence=0.4),
        say("y", "a", "wet", confidence=0.6),
        say("z", "a", "wet"),
    ]

    results = decide(answers, min_confidence=0.5)

    assert [(type(r).__name__, r.example_id) for r in results] == [
        ("Dropped", "x"),
        ("Aggregated", "y"),
        ("Aggregated", "z"),
    ]
    assert results[0].reason == "low_confidence"  # type: ignore[union-attr]


def test_in_a_vote_each_teacher_has_one_vote_however_often_it_was_asked() -> None:
    answers = [
        *(say("x", "a", "wet", i) for i in range(3)),
        say("x", "b", "dry", confidence=0.5),
        say("x", "c", "dry", confidence=0.5),
    ]

    result = only(decide(answers, "vote", ["a", "b", "c"]))

    assert result.label == "dry"
    assert result.probabilities == pytest.approx({"dry": 2 / 3, "wet": 1 / 3, "mixed": 0})


def test_a_tie_of_teachers_goes_to_the_sure_one_then_to_the_first_listed() -> None:
    sure = [say("x", "a", "dry", confidence=0.5), say("x", "b", "wet", confidence=0.95)]
    equal = [say("x", "a", "dry", confidence=0.5), say("x", "b", "wet", confidence=0.6)]

    assert only(decide(sure, "vote", ["a", "b"])).label == "wet"
    assert only(decide(equal, "vote", ["a", "b"])).label == "dry"
    assert only(decide(equal, "vote", ["b", "a"])).label == "wet"


def test_the_rationale_is_by_a_teacher_that_chose_the_label() -> None:
    answers = [
        say("x", "a", "dry", rationale="The sun shines."),
        say("x", "b", "wet"),
        say("x", "c", "wet", rationale="Rain was seen."),
    ]

    result = only(decide(answers, "vote", ["a", "b", "c"]))

    assert (result.rationale, result.rationale_teacher) == ("Rain was seen.", "c")


def test_there_is_no_rationale_when_nobody_who_agrees_gave_one() -> None:
    answers = [
        say("x", "a", "dry", rationale="The sun shines."),
        say("x", "b", "wet"),
        say("x", "c", "wet"),
    ]

    result = only(decide(answers, "vote", ["a", "b", "c"]))

    assert (result.label, result.rationale, result.rationale_teacher) == ("wet", None, None)


def crowd(errors: dict[str, int], rows: int = 30) -> list[AnyAnswer]:
    """
    Teachers that each err on rows of their own: teacher i on every `errors[i]`-th row.

    Row r's true label is LABELS[r % 3]; an error says the next label. All are sure.
    """
    answers = []
    for row in range(rows):
        for place, (teacher, period) in enumerate(errors.items()):
            wrong = period and row % period == place
            label = LABELS[(row + (1 if wrong else 0)) % 3]
            reason = f"{teacher} says so."
            answers.append(say(f"r{row}", teacher, label, rationale=reason, confidence=0.95))
    return answers


def gold_of(answers: Sequence[AnyAnswer]) -> dict[str, str]:
    return {a.example_id: LABELS[int(a.example_id[1:]) % 3] for a in answers}


@pytest.mark.parametrize("kind", ["weighted", "dawid_skene"])
def test_the_rationale_is_by_the_most_reliable_teacher_that_agrees(kind: str) -> None:
    answers = crowd({"poor": 4, "fair": 8, "good": 0}, rows=48)

    results = decide(answers, kind, ["poor", "fair", "good"])

    assert {r.label == gold_of(answers)[r.example_id] for r in results} == {True}  # type: ignore[union-attr]
    assert {r.rationale_teacher for r in results} == {"good"}  # type: ignore[union-attr]


def test_accuracies_are_learned_without_gold() -> None:
    answers = crowd({"poor": 4, "fair": 8, "good": 0}, rows=48)
    rows = [
        Row(ballot.opinions(["poor", "fair", "good"], LABELS, 0.9)) for ballot in ballots(answers)
    ]

    learned = learn_reliability(vote_table(rows, ["poor", "fair", "good"], LABELS), "one_coin")

    assert learned is not None
    assert learned.accuracy == pytest.approx(
        {"poor": 36 / 48, "fair": 42 / 48, "good": 1}, abs=0.01
    )
    # true label dry, 16 rows: "poor" is wrong on rows 0, 12, 24 and 36 and says wet there
    assert learned.confusion[0, 0] == pytest.approx([12, 4, 0], abs=0.1)


def test_weights_follow_the_gold_probe() -> None:
    """
    Two teachers that contradict each other on every row: agreement cannot tell them apart.

    Ten gold rows say that b is right. Its accuracy becomes (10 + 8 p) / 18 and a's 8 p' / 18,
    with p, p' what agreement alone believes.
    """
    answers = [
        say(f"r{i}", teacher, "wet" if teacher == "a" else "dry", confidence=0.95)
        for i in range(40)
        for teacher in ("a", "b")
    ]
    gold = {f"r{i}": "dry" for i in range(10)}

    blind = decide(answers, "weighted", ["a", "b"], {})
    taught = decide(answers, "weighted", ["a", "b"], gold)

    assert {r.label for r in blind} == {"wet"}  # type: ignore[union-attr]
    assert {r.label for r in taught} == {"dry"}  # type: ignore[union-attr]


def test_gold_is_not_looked_at_when_told_to_learn_from_agreement() -> None:
    answers = crowd({"a": 4, "b": 8}, rows=24)
    gold = dict.fromkeys(gold_of(answers), "mixed")
    config = Aggregation(kind="weighted", learn_from="agreement")

    with_gold = list(aggregate(answers, TASK, config, ["a", "b"], gold))
    without = list(aggregate(answers, TASK, config, ["a", "b"], None))

    assert with_gold == without


def test_the_weighted_posterior_is_bayes_of_the_learned_accuracies() -> None:
    """p(label) is proportional to the product of s if said, (1 - s) / 2 otherwise."""
    answers = crowd({"a": 5, "b": 0}, rows=20)
    rows = [Row(ballot.opinions(["a", "b"], LABELS, 0.9)) for ballot in ballots(answers)]
    table = vote_table(rows, ["a", "b"], LABELS)
    learned = learn_reliability(table, "one_coin")
    assert learned is not None
    a, b = learned.emissions[0, 1, 0, 0], learned.emissions[1, 1, 0, 0]

    odds = learned.posteriors(table)[0]  # row 0: a errs and says wet, b says dry

    by_hand = np.array([(1 - a) / 2 * b, a * (1 - b) / 2, (1 - a) * (1 - b) / 4])
    assert odds == pytest.approx(by_hand / by_hand.sum())
    assert learned.posteriors(table).sum(axis=1) == pytest.approx(np.ones(20))


def test_a_teacher_is_trusted_less_where_it_is_unsure() -> None:
    """a is right where sure and wrong where not; b and c are right: agreement shows it."""
    answers = []
    for row in range(40):
        truth, sure = LABELS[row % 3], row % 2 == 0
        said = truth if sure else LABELS[(row + 1) % 3]
        answers.append(say(f"r{row}", "a", said, confidence=0.99 if sure else 0.5))
        answers += [say(f"r{row}", name, truth, confidence=0.99) for name in ("b", "c")]
    rows = [Row(ballot.opinions(["a", "b", "c"], LABELS, 0.9)) for ballot in ballots(answers)]

    learned = learn_reliability(vote_table(rows, ["a", "b", "c"], LABELS), "one_coin")

    assert learned is not None
    # add-one smoothing of 20 of 20 and 0 of 20
    assert learned.emissions[0, 1, 0, 0] == pytest.approx(21 / 22, abs=1e-3)
    assert learned.emissions[0, 0, 0, 0] == pytest.approx(1 / 22, abs=1e-3)


def test_no_confusion_matrix_holds_a_zero() -> None:
    """A voter seen without fault is not infallible: one wrong answer must not be impossible."""
    answers = crowd({"a": 0, "b": 0, "c": 0}, rows=6)
    rows = [Row(ballot.opinions(["a", "b", "c"], LABELS, 0.9)) for ballot in ballots(answers)]

    learned = learn_reliability(vote_table(rows, ["a", "b", "c"], LABELS), "dawid_skene")

    assert learned is not None
    # sure, 2 rows of each label, all right; one coin (6 + 1) / (6 + 2), worth PRIOR_ROWS rows
    right = (2 + PRIOR_ROWS * 7 / 8) / (2 + PRIOR_ROWS)
    assert learned.emissions[0, 1, 0] == pytest.approx([right, (1 - right) / 2, (1 - right) / 2])


def test_dawid_skene_finds_a_teacher_that_swaps_two_labels() -> None:
    """Four rows in five agree; c says wet for dry and dry for wet, which is information."""
    swap = {"dry": "wet", "wet": "dry", "mixed": "mixed"}
    answers = []
    for row in range(60):
        truth = LABELS[row % 3]
        slip = LABELS[(row + 1) % 3]
        answers.append(say(f"r{row}", "a", slip if row % 10 == 0 else truth, confidence=0.95))
        answers.append(say(f"r{row}", "b", slip if row % 10 == 5 else truth, confidence=0.95))
        answers.append(say(f"r{row}", "c", swap[truth], confidence=0.95))

    results = decide(answers, "dawid_skene", ["a", "b", "c"])

    gold = gold_of(answers)
    wrong = [r.example_id for r in results if r.label != gold[r.example_id]]  # type: ignore[union-attr]
    assert wrong == []


def test_gold_with_a_label_that_no_teacher_ever_gave_is_survived() -> None:
    answers = [
        say(f"r{i}", teacher, ["dry", "wet"][i % 2], confidence=0.95)
        for i in range(10)
        for teacher in ("a", "b")
    ]

    results = decide(answers, "dawid_skene", ["a", "b"], {"r0": "mixed"})

    assert len(results) == 10
    assert all(math.isfinite(r.confidence or 0) for r in results if isinstance(r, Aggregated))


def test_teachers_that_never_meet_are_weighed_alike() -> None:
    answers = [say("x", "a", "wet"), say("y", "b", "dry")]

    results = decide(answers, "weighted", ["a", "b"])

    assert [r.label for r in results] == ["wet", "dry"]  # type: ignore[union-attr]


def test_a_cascade_keeps_the_word_of_the_last_teacher_that_answered() -> None:
    answers = [
        say("x", "cheap", "wet", confidence=0.95, rationale="Rain."),
        say("y", "cheap", "wet", confidence=0.5, rationale="Rain."),
        say("y", "dear", "dry", confidence=0.8, rationale="Sun."),
        say("z", "cheap", "wet", confidence=0.5, rationale="Rain."),
        say("z", "dear", None),
    ]

    results = decide(answers, "cascade", ["cheap", "dear"])

    found = [(r.label, r.confidence, r.rationale_teacher) for r in results]  # type: ignore[union-attr]
    assert found == [("wet", 0.95, "cheap"), ("dry", 0.8, "dear"), ("wet", 0.5, "cheap")]


@pytest.mark.parametrize("kind", ["weighted", "dawid_skene", "cascade"])
def test_comparing_kinds_refuse_a_single_teacher(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"'{kind}' compares several teachers, got one"):
        decide([say("x", "a", "wet")], kind)


def test_single_refuses_two_teachers_and_equal_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="'single' takes one teacher, got a, b"):
        decide([say("x", "a", "wet")], "single", ["a", "b"])
    with pytest.raises(ConfigError, match="give each its own `name`"):
        decide([say("x", "a", "wet")], "vote", ["a", "a"])


def test_answers_of_a_teacher_nobody_named_are_refused() -> None:
    answers = [say("x", "a", "wet"), say("x", "b", "wet"), say("x", "c", "wet")]

    with pytest.raises(ConfigError, match="answers of c, who is not among a, b"):
        decide(answers, "vote", ["a", "b"])


def test_an_iterator_that_can_be_read_once_only_is_refused() -> None:
    stream = iter([say("x", "a", "wet"), say("x", "b", "wet")])

    with pytest.raises(TypeError, match="read twice"):
        list(aggregate(stream, TASK, Aggregation(kind="vote"), ["a", "b"]))


def test_answers_asked_teacher_by_teacher_are_brought_together_by_text() -> None:
    asked = [say("x", "a", "wet"), say("y", "a", "dry"), say("x", "b", "wet"), say("y", "b", "dry")]

    found = in_row_order(asked)

    assert [(a.example_id, a.teacher) for a in found] == [
        ("x", "a"), ("x", "b"), ("y", "a"), ("y", "b"),
    ]  # fmt: skip


def test_the_confidence_of_an_opinion_is_the_mean_of_those_that_chose_its_label() -> None:
    answers = [
        say("x", "a", "wet", 0, confidence=0.8),
        say("x", "a", "dry", 1, confidence=0.1),
        say("x", "a", "wet", 2, confidence=0.6),
    ]

    opinion = opinion_of(answers, LABELS, 0.9)

    assert opinion is not None
    assert opinion.confidence == pytest.approx(0.7)


@pytest.mark.parametrize(("rows", "kept"), [(8, list(range(8))), (9, [0, 2, 4, 6, 8])])
def test_a_stream_is_sampled_evenly_whatever_its_length(rows: int, kept: list[int]) -> None:
    sample = EvenSample(most=8)

    for row in range(rows):
        sample.offer(lambda row=row: Row({}, gold=str(row)))  # type: ignore[misc]

    assert [row.gold for row in sample.rows()] == [str(row) for row in kept]


def test_a_sample_keeps_all_rows_of_the_probe() -> None:
    sample = EvenSample(most=4)

    for row in range(100):
        sample.offer(lambda row=row: Row({}, str(row), row < 10), probe=row < 10)  # type: ignore[misc]

    rows = list(sample.rows())
    assert sum(row.probe for row in rows) == 10
    assert 2 <= sum(not row.probe for row in rows) <= 4
