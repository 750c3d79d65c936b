"""Pairs and tiny students for the tests of the student side."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from common.config.student import StudentConfig
from common.records import TrainingPair
from common.task import TaskDefinition, load_task

SHARED = Path(__file__).parents[2].parent / "shared"

SENTENCES = [
    ("Profit at Amber Mill rose by {n} % on strong timber demand.", "positive", "Profit grew."),
    ("Sales at Blue Quarry fell to {n} million, the firm said.", "negative",
     "Lower sales hurt the earnings of the company."),
    ("The annual meeting of Cedar Lines is held on day {n} of May.", "neutral", None),
    ("Dune Ferries won an order worth {n} million.", "positive",
     "A new order adds to the revenue of the coming year."),
    ("Elm Bakeries has {n} shops.", "neutral", "A plain fact without effect on earnings."),
]  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def task() -> TaskDefinition:
    return load_task("sentiment")


@pytest.fixture(scope="session")
def make_pairs() -> Callable[[int], list[TrainingPair]]:
    def make(count: int) -> list[TrainingPair]:
        chosen = [SENTENCES[i % len(SENTENCES)] for i in range(count)]
        return [
            TrainingPair(
                example_id=f"e{i}",
                text=text.format(n=i),
                label=label,
                rationale=rationale,
                weight=1.0 + 0.25 * (i % 3),
            )
            for i, (text, label, rationale) in enumerate(chosen)
        ]

    return make


@pytest.fixture(scope="session")
def tiny() -> Callable[..., StudentConfig]:
    def make(architecture: str, family: str, **more: object) -> StudentConfig:
        shape = {"family": family, "hidden": 32, "feed_forward": 48, "vocabulary": 500}
        return StudentConfig.model_validate(
            {"architecture": architecture, "model": "tiny-random", "tiny": shape, **more}
        )

    return make


@pytest.fixture(scope="session")
def shared_models() -> Path:
    if not (SHARED / "models").is_dir():
        pytest.skip("needs ../shared/models, which only the project's own machines have")
    return SHARED / "models"
