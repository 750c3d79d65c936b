"""Where a training's curves go beside its own history: TensorBoard by default, others by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import integration_utils

from common.errors import ConfigError, MissingDependency

_LIBRARY: Any = integration_utils


def reporters(names: Sequence[str], folder: Path) -> list[TrainerCallback]:
    """
    The Trainer's callbacks of `names`; empty means TensorBoard where it is installed.

    Raises ConfigError for a name the Trainer does not know, MissingDependency.
    """
    wanted = list(names)
    if not wanted and _LIBRARY.is_tensorboard_available():
        wanted = ["tensorboard"]
    return [_reporter(name, folder) for name in wanted if name != "none"]


def _reporter(name: str, folder: Path) -> TrainerCallback:
    try:
        (kind,) = _LIBRARY.get_reporting_integration_callbacks([name])
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"training.report_to: '{name}' is no reporter; expected tensorboard, mlflow, wandb, "
            "another one of the Trainer's, or none."
        ) from error
    # Asked before it is made: a reporter that fails half made complains when it is collected.
    installed = getattr(_LIBRARY, f"is_{name}_available", lambda: True)
    if not installed():
        raise MissingDependency(
            f"training.report_to: '{name}' is not installed; pip install {name}, or leave it out."
        )
    callback: Any = kind()
    if isinstance(callback, _LIBRARY.TensorBoardCallback):
        # Beside the checkpoints, not among them: those go when the model is finished.
        callback.logging_dir = str(folder / "tensorboard")
    return callback  # type: ignore[no-any-return]
