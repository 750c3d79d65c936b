"""The two terms of the loss against numbers worked out by hand."""

import math

import pytest
import torch

from student.batches import target_index
from student.encoding import IGNORE, Branch, EncodedExample
from student.losses import Terms, Totals, hard_terms, soft_label_sum


def one(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_each_term_is_a_mean_over_its_own_tokens() -> None:
    # Two label tokens at -1 and -3, four rationale tokens at -2: means 2 and 2, not 12 / 6 or 6.
    logs = one(-1, -3, -2, -2, -2, -2)
    label, rationale = one(1, 1, 0, 0, 0, 0), one(0, 0, 1, 1, 1, 1)

    terms = hard_terms(logs, label, rationale)

    assert float(terms.loss(Totals(2, 4), 0.5)) == pytest.approx(2 + 0.5 * 2)


def test_example_weights_scale_both_numerator_and_denominator() -> None:
    # Weights 1 and 3 on single-token labels at -1 and -2: (1 * 1 + 3 * 2) / 4.
    terms = hard_terms(one(-1, -2), one(1, 3), one(0, 0))

    assert float(terms.loss(Totals(4, 0), 1.0)) == pytest.approx(1.75)


def test_terms_without_targets_add_nothing() -> None:
    nothing = Terms(label=one(0)[0], rationale=one(0)[0])

    assert float(nothing.loss(Totals(0, 0), 1.0)) == 0.0


def test_soft_labels_at_temperature_one_are_cross_entropy() -> None:
    scores = one(0.5, 0.3, 0.2).log()[None] - 2.0  # unnormalised: label strings hold not all mass
    teacher = one(0.6, 0.4, 0.0)[None]

    got = soft_label_sum(scores, teacher, one(2.0), 1.0)

    assert float(got) == pytest.approx(-2 * (0.6 * math.log(0.5) + 0.4 * math.log(0.3)))


def test_soft_labels_at_temperature_two_follow_hinton() -> None:
    student, teacher = [0.7, 0.2, 0.1], [0.5, 0.4, 0.1]

    def softened(p: list[float]) -> list[float]:
        roots = [math.sqrt(v) for v in p]
        return [r / sum(roots) for r in roots]

    q, p = softened(student), softened(teacher)
    expected = 4 * -sum(a * math.log(b) for a, b in zip(p, q, strict=True))

    got = soft_label_sum(one(*student).log()[None], one(*teacher)[None], one(1.0), 2.0)

    assert float(got) == pytest.approx(expected)


def test_soft_gradient_is_student_minus_teacher() -> None:
    scores = one(0.5, -0.2, 0.1)[None].requires_grad_()
    teacher = one(0.2, 0.5, 0.3)[None]

    soft_label_sum(scores, teacher, one(1.0), 1.0).backward()  # type: ignore[no-untyped-call]

    assert scores.grad is not None
    expected = torch.softmax(scores.detach(), -1) - teacher
    assert torch.allclose(scores.grad, expected, atol=1e-12)


def test_one_hot_teacher_with_all_mass_on_labels_equals_the_hard_label() -> None:
    scores = one(0.7, 0.2, 0.1).log()[None]

    soft = soft_label_sum(scores, one(0, 1, 0)[None], one(1.0), 1.0)

    assert float(soft) == pytest.approx(-math.log(0.2))


def test_impossible_label_string_does_not_make_nan() -> None:
    scores = torch.tensor([[0.0, -math.inf]], dtype=torch.float64)

    got = soft_label_sum(scores, one(1, 0)[None], one(1.0), 1.0)

    assert float(got) == pytest.approx(0.0)


def branch(label: int | None, count: int) -> Branch:
    return Branch((7,) * count, (8,) * count, label)


def test_soft_share_is_taken_from_the_gold_label_and_given_to_all_labels() -> None:
    branches = (branch(0, 2), branch(1, 3), branch(2, 2), branch(None, 5))
    example = EncodedExample(((1, 2),), branches, gold=1, weight=2.0, soft=(0.1, 0.8, 0.1))

    index = target_index([example], soft_share=0.25)

    assert index["label_weight"].tolist() == [0, 1.5, 0, 0]
    assert index["rationale_weight"].tolist() == [0, 0, 0, 2]
    assert index["soft_weight"].tolist() == [2 * 0.25 * 3]
    assert index["label_scores_index"].tolist() == [[0, 1, 2]]


def test_example_without_probabilities_keeps_its_hard_label_whole() -> None:
    example = EncodedExample(((1,),), (branch(1, 2),), gold=1, weight=2.0)

    index = target_index([example], soft_share=0.25)

    assert index["label_weight"].tolist() == [2.0]
    assert index["soft_weight"].tolist() == [0.0]
    assert branch(1, 2).targets.count(IGNORE) == 0
