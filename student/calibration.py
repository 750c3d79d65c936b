"""
Temperature scaling (Guo et al. 2017): one number that makes a student's probabilities honest.

Fitted on the validation part when a training ends and kept beside the model as calibration.json.
Dividing all log-probabilities by the same number changes no label, hence no accuracy.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from common.errors import StudentError
from common.records import Record

CALIBRATION = "calibration.json"
LOWEST, HIGHEST = 0.05, 20.0


class Calibration(Record):
    """
    `temperature` divides the log-probabilities of the labels. `log_loss` (nats per text) on the
    `n` validation texts it was fitted on, before and after.
    """

    temperature: float = Field(gt=0)
    n: int = 0
    log_loss_before: float | None = None
    log_loss_after: float | None = None


UNCALIBRATED = Calibration(temperature=1.0)


def fit_temperature(scores: Tensor, gold: Sequence[int]) -> Calibration:
    """
    The temperature of least log loss for `scores` (N, K), log-probabilities, and the right labels.

    The targets are smoothed as Platt (1999) does, (N + 1) / (N + K) on the right label: a
    validation part without a single mistake would otherwise ask for a temperature of zero.
    """
    if not len(gold):
        return UNCALIBRATED
    logs, right = scores.double(), torch.tensor(list(gold))
    texts, labels = logs.shape
    targets = torch.full_like(logs, 1 / (texts + labels))
    targets.scatter_(1, right[:, None], (texts + 1) / (texts + labels))

    def smoothed_loss(temperature: float) -> float:
        return float(-(targets * torch.log_softmax(logs / temperature, -1)).sum(-1).mean())

    def plain_loss(temperature: float) -> float:
        chosen = torch.log_softmax(logs / temperature, -1).gather(1, right[:, None])
        return float(-chosen.mean())

    temperature = _least(smoothed_loss)
    return Calibration(
        temperature=temperature,
        n=texts,
        log_loss_before=plain_loss(1.0),
        log_loss_after=plain_loss(temperature),
    )


def _least(loss: Callable[[float], float]) -> float:
    """Minimum over [LOWEST, HIGHEST]: the loss is convex in the inverse temperature."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda inverse: loss(1 / inverse), bounds=(1 / HIGHEST, 1 / LOWEST), method="bounded"
    )
    return float(1 / found.x)


def calibrated(scores: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (N, K) at a temperature; the order within a row stays."""
    return torch.log_softmax(scores / temperature, dim=-1)


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Put it beside the model."""
    (folder / CALIBRATION).write_text(calibration.model_dump_json(indent=1) + "\n", "utf-8")


def read_calibration(folder: Path) -> Calibration:
    """What was fitted for the model in `folder`; temperature 1 where nothing was."""
    try:
        return Calibration.model_validate_json((folder / CALIBRATION).read_text("utf-8"))
    except FileNotFoundError:
        return UNCALIBRATED
    except (ValidationError, UnicodeDecodeError, OSError) as error:
        raise StudentError(
            f"'{folder / CALIBRATION}' cannot be read ({type(error).__name__}); expected a file "
            "with a temperature above 0: remove it to use the uncalibrated probabilities."
        ) from error
