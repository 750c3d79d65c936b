"""Predicting with a finished student: order, probabilities, rationales that end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.optimize import minimize_scalar

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.errors import StudentError
from common.records import TrainingPair
from common.task import TaskDefinition
from student.calibration import (
    CALIBRATION,
    Calibration,
    calibrated,
    fit_temperature,
    read_calibration,
    write_calibration,
)
from student.generation import looping_phrase, without_loop
from student.predict import Predictor
from student.train import train_student

Pairs = Callable[[int], list[TrainingPair]]
Tiny = Callable[..., StudentConfig]
END = 1


def trained(
    folder: Path,
    config: StudentConfig,
    task: TaskDefinition,
    pairs: list[TrainingPair],
    **more: Any,
) -> Path:
    settings = {"epochs": 4, "batch_size": 8, "learning_rate": 4e-3, "seed": 5, "evaluations": 0}
    train_student(
        student=config,
        training=TrainingConfig.model_validate({**settings, **more}),
        task=task,
        train=pairs[:-10],
        validation=pairs[-10:],
        folder=folder,
        threads=1,
    )
    return folder / "model"


@pytest.fixture(scope="module", params=[("seq2seq", "t5"), ("causal", "gpt2")], ids=lambda p: p[1])
def model(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
) -> Path:
    config = tiny(*request.param, max_rationale_tokens=12)
    return trained(tmp_path_factory.mktemp("student"), config, task, make_pairs(50))


def test_answers_stand_in_the_order_of_the_texts_whatever_the_batches(
    model: Path, make_pairs: Pairs
) -> None:
    predictor = Predictor.load(model)
    texts = [pair.text for pair in make_pairs(11)]

    alone = [predictor.predict([text])[0] for text in texts]

    for size in (1, 3, 64):
        together = predictor.predict(texts, batch_size=size)
        assert [row.label for row in together] == [row.label for row in alone]
        for one, other in zip(together, alone, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert predictor.predict([]) == []


def test_rationales_are_written_only_when_asked_and_not_changed_by_their_batch(
    model: Path, make_pairs: Pairs
) -> None:
    predictor = Predictor.load(model)
    texts = [pair.text for pair in make_pairs(7)]

    silent = predictor.predict(texts)
    speaking = predictor.predict(texts, rationales=True, batch_size=3)

    assert [row.rationale for row in silent] == [None] * 7
    assert all(row.rationale is not None for row in speaking)
    assert [row.label for row in silent] == [row.label for row in speaking]
    assert [row.rationale for row in speaking] == [predictor.rationales([t])[0] for t in texts]


def test_bfloat16_gives_nearly_the_same_probabilities(model: Path, make_pairs: Pairs) -> None:
    texts = [pair.text for pair in make_pairs(11)]

    exact = Predictor.load(model).scores(texts).exp()
    coarse = Predictor.load(model, precision="bf16").scores(texts).exp()

    assert (exact - coarse).abs().max() < 0.05
    assert coarse.dtype == torch.float32


def test_a_student_that_learnt_no_rationales_writes_none(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    folder = trained(tmp_path, tiny("seq2seq", "t5"), task, make_pairs(20), rationale_weight=0)

    answer = Predictor.load(folder).predict(["Sales rose."], rationales=True)[0]

    assert answer.rationale is None


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        ([5, 6, 7, END, 9, 9], [5, 6, 7]),
        ([5, *[9] * 9], [5, 9]),
        ([5, *[2, 3] * 6, 2], [5, 2, 3]),
        ([4, *[5, 6, 7, 8, 9] * 3, 5], [4, 5, 6, 7, 8, 9]),
        ([8, 8, 8, 5], [8, 8, 8, 5]),  # "1,000,000" is no loop
        ([7, *[8] * 7], [7, *[8] * 7]),  # nor are the zeros of ten million, one by one
        ([7, *[4, 8, 8, 8] * 4], [7, *[4, 8, 8, 8] * 4]),  # nor a trillion with its commas
        ([], []),
    ],
)
def test_loops_are_cut_to_their_first_round(tokens: list[int], kept: list[int]) -> None:
    assert without_loop(tokens, END) == kept


def test_a_phrase_counts_as_a_loop_by_its_repetitions() -> None:
    assert looping_phrase([1, 2, 3]) == 0
    assert looping_phrase([7] * 7) == 0
    assert looping_phrase([7] * 8) == 1
    assert looping_phrase([1, 2, 3, 4] * 5) == 4
    assert looping_phrase([1, 2, 3, 4, 5] * 3) == 5


def test_generated_rationales_do_not_loop(model: Path, make_pairs: Pairs) -> None:
    predictor = Predictor.load(model)

    for text in predictor.rationales([pair.text for pair in make_pairs(10)]):
        words = (text or "").split()
        assert not any(words[i : i + 8] == [words[i]] * 8 for i in range(len(words) - 7))


def overconfident(count: int) -> tuple[torch.Tensor, list[int]]:
    """Scores of a model that claims four times the evidence it has, and labels drawn from it."""
    made = torch.Generator().manual_seed(2)
    evidence = torch.randn(count, 3, generator=made, dtype=torch.float64)
    gold = torch.multinomial(torch.softmax(evidence, -1), 1, generator=made)[:, 0]
    return torch.log_softmax(4 * evidence, -1), gold.tolist()


def test_fitted_temperature_undoes_overconfidence() -> None:
    scores, gold = overconfident(20_000)

    found = fit_temperature(scores, gold)

    assert found.temperature == pytest.approx(4.0, rel=0.05)
    assert found.log_loss_before is not None
    assert found.log_loss_after is not None
    assert found.log_loss_after < found.log_loss_before / 1.5


def test_fitted_temperature_is_the_optimum_an_independent_search_finds() -> None:
    scores, gold = overconfident(400)
    texts, labels = scores.shape
    share = (texts + 1) / (texts + labels)
    target = torch.full_like(scores, (1 - share) / (labels - 1))
    target[range(texts), gold] = share
    loss = torch.nn.CrossEntropyLoss()

    wanted = minimize_scalar(
        lambda log_t: float(loss(scores / 2.718281828459045**log_t, target)), bracket=(0.0, 2.0)
    )

    got = fit_temperature(scores, gold).temperature
    assert got == pytest.approx(2.718281828459045 ** float(wanted.x), rel=1e-3)


def test_calibration_changes_no_label_and_survives_a_faultless_validation_part() -> None:
    scores, _ = overconfident(50)

    found = fit_temperature(scores, scores.argmax(-1).tolist())

    assert 0.05 <= found.temperature <= 20
    changed = calibrated(scores, found.temperature)
    assert torch.equal(changed.argmax(-1), scores.argmax(-1))
    assert fit_temperature(scores[:0], []) == Calibration(temperature=1.0)


def test_a_training_leaves_a_temperature_that_predict_applies(
    model: Path, make_pairs: Pairs
) -> None:
    found = read_calibration(model)
    text = make_pairs(3)[2].text
    predictor = Predictor.load(model)

    row = predictor.predict([text])[0]

    assert found.n == 10
    expected = torch.softmax(predictor.scores([text])[0] / found.temperature, -1)
    assert list(row.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_damaged_calibration_is_named_and_a_missing_one_means_none(tmp_path: Path) -> None:
    assert read_calibration(tmp_path).temperature == 1.0

    write_calibration(tmp_path, Calibration(temperature=2.5, n=4))
    assert read_calibration(tmp_path).temperature == 2.5

    (tmp_path / CALIBRATION).write_text('{"temperature": -1}')
    with pytest.raises(StudentError, match="remove it"):
        read_calibration(tmp_path)
