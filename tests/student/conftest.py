"""Pairs and tiny students for the tests of the student side."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.records import TrainingPair
from common.task import TaskDefinition, load_task
from student.encoding import Encoder
from student.models.load import LoadedStudent, Plan, load_student
from student.models.tiny import prepare_tiny, tiny_texts
from student.progress import TrainingHooks, TrainingSummary
from student.train import train_student

PLAN = Plan()
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
def untrained(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., tuple[LoadedStudent, Encoder]]:
    """A tiny student as its training would begin, and what encodes for it."""

    def load(
        config: StudentConfig, task: TaskDefinition, pairs: list[TrainingPair], plan: Plan = PLAN
    ) -> tuple[LoadedStudent, Encoder]:
        assert config.tiny
        texts = tiny_texts(pairs, task, "default")
        folder = prepare_tiny(tmp_path_factory.mktemp("m") / "base", config.tiny, texts, seed=3)
        loaded = load_student(config, task, str(folder), plan)
        return loaded, Encoder(config, task, loaded.tokenizer, loaded.tokens)

    return load


@pytest.fixture
def train(
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    make_pairs: Callable[[int], list[TrainingPair]],
    tmp_path: Path,
) -> Callable[..., TrainingSummary]:
    def run(
        pairs: list[TrainingPair] | None = None,
        name: str = "a",
        student: StudentConfig | None = None,
        hooks: TrainingHooks | None = None,
        **training: Any,
    ) -> TrainingSummary:
        """Train on all pairs but the last five, which validate."""
        pairs = pairs or make_pairs(21)
        values = {"batch_size": 8, "seed": 5, "evaluations": 0, "report_to": ["none"], **training}
        return train_student(
            student=student or tiny("seq2seq", "t5", dropout=0.0),
            training=TrainingConfig.model_validate(values),
            task=task,
            train=pairs[:-5],
            validation=pairs[-5:],
            folder=tmp_path / name,
            hooks=hooks,
            threads=1,
        )

    return run


@pytest.fixture(scope="session")
def shared_models() -> Path:
    if not (SHARED / "models").is_dir():
        pytest.skip("needs ../shared/models, which only the project's own machines have")
    return SHARED / "models"
