"""Libraries that print over a training's own progress, brought to silence."""

import contextlib
import warnings
from collections.abc import Iterator

from transformers.utils import logging as transformers_logging


def quiet_libraries() -> None:
    """No progress bars and load reports: missing weights are judged in models/load.py."""
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def outdated_calls_forgiven() -> Iterator[None]:
    """peft 0.21 still calls what transformers 5 has renamed; nothing here can mend that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
