"""Which texts are explained: the same for every run, spread over the labels."""

from collections import Counter
from itertools import pairwise

from common.config.run import EvaluationConfig
from common.evaluation.comparison import Judged
from common.evaluation.evaluate import evaluate_system
from common.evaluation.explained import explained_ids, on_shared_texts
from common.records import Example, Prediction, SystemCard
from common.task import load_task

TASK = load_task("sentiment")
SETTINGS = EvaluationConfig(bootstrap=100)
LABELS = ["positive"] * 30 + ["neutral"] * 60 + ["negative"] * 10
ROWS = [Example(id=str(i), text=f"Sentence {i}.", label=label) for i, label in enumerate(LABELS)]


def test_every_label_has_its_share_of_the_texts_that_are_explained() -> None:
    drawn = explained_ids(ROWS, 20, seed=20)
    assert Counter(e.label for e in ROWS if e.id in drawn) == {
        "positive": 6, "neutral": 12, "negative": 2,
    }  # fmt: skip


def test_a_file_sorted_by_label_gives_the_sample_of_the_shuffled_one() -> None:
    drawn = explained_ids(ROWS, 20, seed=20)
    assert explained_ids(ROWS[::-1], 20, seed=20) == drawn
    renamed = [e.model_copy(update={"id": f"row {e.id}"}) for e in ROWS]
    assert explained_ids(renamed, 20, seed=20) == {f"row {i}" for i in drawn}


def test_a_smaller_sample_lies_within_a_larger_one() -> None:
    sizes = [explained_ids(ROWS, count, seed=20) for count in (0, 1, 7, 20, 100, 1000)]
    assert [len(ids) for ids in sizes] == [0, 1, 7, 20, 100, 100]
    assert all(small <= large for small, large in pairwise(sizes))


def test_another_seed_draws_other_texts() -> None:
    assert explained_ids(ROWS, 20, seed=20) != explained_ids(ROWS, 20, seed=21)


def test_two_test_parts_explain_mostly_the_same_of_the_texts_they_share() -> None:
    first, second = ROWS[:95], ROWS[5:]
    one, two = explained_ids(first, 30, seed=20), explained_ids(second, 30, seed=20)
    shared = {e.id for e in ROWS[5:95]}
    assert len(one & two & shared) >= 0.8 * len((one | two) & shared)


def judged(name: str, explained: range, good: range = range(0)) -> Judged:
    said = [
        Prediction(
            example_id=e.id,
            label=e.label,
            rationale=None if int(e.id) not in explained
            else f"It is {e.label if int(e.id) in good else 'unclear'}: sentence {e.id}.",
        )
        for e in ROWS
    ]  # fmt: skip
    card = SystemCard(name=name, role="student", title=name)
    return Judged(evaluate_system(card, ROWS, said, TASK, SETTINGS, "d", "f"), said)


def test_rationales_of_two_systems_are_scored_on_the_texts_both_explained() -> None:
    systems = [judged("one", range(10)), judged("two", range(6, 30)), judged("mute", range(0))]
    before = [s.report.rationales["number_accuracy"].n for s in systems[:2]]
    after, notes = on_shared_texts(systems, ROWS, TASK, SETTINGS, {})
    assert before == [10, 24]
    assert [s.report.rationales["number_accuracy"].n for s in after[:2]] == [4, 4]
    assert after[2].report.rationales == {}
    assert notes == [
        "Rationales are scored on the 4 texts that all who explain explained (of up to 24)."
    ]
    assert [s.predictions for s in after] == [s.predictions for s in systems]


def test_the_score_is_that_of_the_shared_texts_alone() -> None:
    systems = [judged("one", range(10), good=range(4)), judged("two", range(2, 10))]
    assert systems[0].report.rationales["label_agreement"].n == 4
    after, _ = on_shared_texts(systems, ROWS, TASK, SETTINGS, {})
    assert after[0].report.rationales["label_agreement"].n == 2


def test_systems_that_explain_the_same_texts_are_left_as_they_are() -> None:
    systems = [judged("one", range(10)), judged("two", range(10))]
    assert on_shared_texts(systems, ROWS, TASK, SETTINGS, {}) == (systems, [])


def test_where_no_text_is_shared_the_page_says_so() -> None:
    systems = [judged("one", range(10)), judged("two", range(10, 20))]
    after, notes = on_shared_texts(systems, ROWS, TASK, SETTINGS, {})
    assert after == systems
    assert notes == ["No text was explained by all: rationale scores stand apart."]
