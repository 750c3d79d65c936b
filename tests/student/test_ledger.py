"""Early stopping, the best step and the alarm for a loss that runs away."""

import logging
import math

import pytest

from student.ledger import Ledger


def evaluations(*figures: tuple[float, float]) -> Ledger:
    ledger = Ledger(micro_batch_size=4)
    for step, (accuracy, loss) in enumerate(figures, start=1):
        ledger.record_evaluation({"accuracy": accuracy, "label_loss": loss}, step, 0.001)
    return ledger


def test_best_is_the_highest_accuracy_and_of_equals_the_lowest_loss() -> None:
    assert evaluations((0.5, 1.0), (0.7, 0.9), (0.6, 0.1)).best_step == 2
    assert evaluations((0.7, 1.0), (0.7, 0.8), (0.7, 0.9)).best_step == 2


def test_improvement_in_accuracy_or_loss_is_not_stale() -> None:
    assert evaluations((0.5, 1.0), (0.6, 1.2), (0.6, 0.9)).stale == 0


def test_improvement_below_the_threshold_is_stale() -> None:
    assert evaluations((0.5, 1.0), (0.5005, 0.9995), (0.5, 1.1), (0.4, 1.0)).stale == 3


def test_ledger_survives_a_checkpoint(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    ledger = evaluations((0.5, 1.0))
    ledger.examples_seen, ledger.notes = 96, ["a note"]

    ledger.save(folder)

    assert Ledger.load(folder) == ledger


def test_single_bad_batch_is_no_explosion_and_a_run_of_them_is() -> None:
    ledger = Ledger(micro_batch_size=4)
    calm = [ledger.explodes(loss) for loss in (6.0, 5.0, 4.0, 3.0)]

    once = [ledger.explodes(loss) for loss in (500.0, 3.0)]
    often = [ledger.explodes(loss) for loss in [500.0] * 5]

    assert not any([*calm, *once])
    assert often == [False] * 4 + [True]


def test_falling_loss_never_alarms() -> None:
    ledger = Ledger(micro_batch_size=4)

    assert not any(ledger.explodes(20 * math.exp(-0.1 * i)) for i in range(100))


def test_a_note_is_kept_and_said_at_once(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(micro_batch_size=4)

    with caplog.at_level(logging.WARNING, logger="student.ledger"):
        ledger.note("micro-batch halved to 2")

    assert ledger.notes == ["micro-batch halved to 2"]
    assert caplog.messages == ["training: micro-batch halved to 2"]
