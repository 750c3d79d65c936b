"""Where a training's curves go beside its own history: TensorBoard by default, others by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import integration_utils

from common.errors import ConfigError
from student.preflight import require_known_reporters, require_reporters
from student.tokens import first_line

_LIBRARY: Any = integration_utils
_CHECKS = {"azure_ml": "azureml", "comet_ml": "comet", "flyte": "flytekit"}


def reporters(names: Sequence[str], folder: Path) -> list[TrainerCallback]:
    """
    The Trainer's callbacks of `names`; empty means TensorBoard where it is installed.

    Raises ConfigError for a name the Trainer does not know or one that is not set up,
    MissingDependency.
    """
    wanted = list(names)
    if not wanted and _LIBRARY.is_tensorboard_available():
        wanted = ["tensorboard"]
    require_known_reporters(wanted)
    require_reporters(wanted)
    return [_reporter(name, folder) for name in wanted if name != "none"]


def _reporter(name: str, folder: Path) -> TrainerCallback:
    # Asked before it is made: a reporter that fails half made complains when it is collected.
    if not getattr(_LIBRARY, f"is_{_CHECKS.get(name, name)}_available", lambda: True)():
        raise _not_set_up(name, "its own check says so")
    (kind,) = _LIBRARY.get_reporting_integration_callbacks([name])
    try:
        callback: Any = kind()
    except Exception as error:  # each reporter's library has errors of its own
        raise _not_set_up(name, f"{type(error).__name__}: {first_line(error)}") from error
    if isinstance(callback, _LIBRARY.TensorBoardCallback):
        # Beside the checkpoints, not among them: those go when the model is finished.
        callback.logging_dir = str(folder / "tensorboard")
    return callback  # type: ignore[no-any-return]


def _not_set_up(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"training.report_to: '{name}' is not ready to report ({reason}); expected the packages, "
        "address and key that its own guide asks for, or leave it out."
    )
