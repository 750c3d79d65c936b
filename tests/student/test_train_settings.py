"""What a training's settings do: weights by confidence, equal tokens, stopping, reporters."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.errors import ConfigError, MissingDependency, StudentError
from common.records import TrainingPair
from common.task import TaskDefinition
from student.arguments import training_arguments
from student.checkpoint import newest_checkpoint, read_manifest
from student.defaults import hyperparameters
from student.devices import launch_command
from student.ledger import Ledger
from student.models.seq2seq import Seq2SeqStudent
from student.reporters import reporters
from student.steps import Objective
from student.trainer import StepByStepTrainer

Train = Callable[..., Any]


def test_confidence_weighs_an_example_as_its_weight_does(
    train: Train, make_pairs: Callable[[int], list[TrainingPair]]
) -> None:
    sure = [
        p.model_copy(update={"confidence": 0.2 + 0.1 * (i % 7), "weight": 2.0})
        for i, p in enumerate(make_pairs(13))
    ]
    by_hand = [
        p.model_copy(update={"weight": 2.0 * float(p.confidence or 0), "confidence": None})
        for p in sure
    ]

    def losses(pairs: list[TrainingPair], name: str, how: str) -> list[float]:
        summary = train(pairs, name, max_steps=2, example_weight=how)
        return [entry["loss"] for entry in summary.history if "loss" in entry]

    weighed = losses(sure, "weighed", "confidence")

    assert weighed == losses(by_hand, "by hand", "none")
    assert weighed == losses(by_hand, "none stated", "confidence")
    assert weighed != losses(sure, "ignored", "none")


def test_max_tokens_trains_until_that_many_tokens_were_seen_whatever_the_texts_length(
    train: Train, make_pairs: Callable[[int], list[TrainingPair]]
) -> None:
    pairs = make_pairs(21)
    label_only = train(pairs, "labels", max_tokens=6000, rationale_weight=0, epochs=1)
    both = train(pairs, "both", max_tokens=6000, epochs=1)

    assert label_only.steps > both.steps
    assert label_only.tokens_seen == pytest.approx(6000, rel=0.1)
    assert both.tokens_seen == pytest.approx(6000, rel=0.1)


def test_early_stopping_waits_for_three_evaluations_without_a_thousandth(train: Train) -> None:
    summary = train(epochs=20, evaluations=20, learning_rate=1e-12)

    assert summary.stopped_early
    assert summary.steps == 2 * (1 + 3)
    assert summary.best_step == 2


@pytest.mark.parametrize(("steps", "wanted"), [(11, 6), (10, 6), (17, 6), (50, 6), (13, 3), (3, 5)])
def test_it_is_judged_at_most_as_often_as_asked_and_always_at_the_end(
    steps: int, wanted: int, train: Train
) -> None:
    history = train(max_steps=steps, evaluations=wanted, patience=99).history

    judged = [entry["step"] for entry in history if "eval_accuracy" in entry]
    assert wanted // 2 < len(judged) <= min(steps, wanted)
    assert judged[-1] == steps


def test_a_constant_schedule_warms_up_too(train: Train) -> None:
    history = train(max_steps=6, schedule="constant", warmup_share=0.5, learning_rate=3e-4).history

    rates = [entry["learning_rate"] for entry in history if "learning_rate" in entry]
    assert rates == pytest.approx([0, 1e-4, 2e-4, 3e-4, 3e-4, 3e-4])


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_fresh_weights_learn_at_their_own_rate_with_and_without_adapters(
    lora: dict[str, int] | None,
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    untrained: Callable[..., Any],
    tmp_path: Path,
) -> None:
    config = tiny("classifier", "bert", lora=lora)
    loaded, _ = untrained(config, task, [])
    training = TrainingConfig(learning_rate=1e-4, fresh_learning_rate_factor=10, max_steps=2)
    chosen = hyperparameters(config, training)
    arguments = training_arguments(training, chosen, tmp_path, [], evaluate=False)
    trainer = StepByStepTrainer(
        loaded.module, arguments, [], Objective(), Ledger(4), fresh=loaded.fresh, fresh_factor=10
    )
    name_of = {id(value): name for name, value in loaded.module.named_parameters()}

    rates = {
        name_of[id(value)]: group["lr"]
        for group in trainer.create_optimizer().param_groups
        for value in group["params"]
    }

    assert {rate for name, rate in rates.items() if "classifier" in name} == {1e-3}
    assert 1e-4 in rates.values()


def test_loss_that_is_no_number_stops_and_names_the_checkpoint_that_is_kept(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Seq2SeqStudent.forward
    done = []

    def broken_from_step_six(self: Seq2SeqStudent, **batch: Any) -> Any:
        scores = forward(self, **batch)
        done.append(1)
        return scores._replace(tokens=scores.tokens * float("nan")) if len(done) > 5 else scores

    monkeypatch.setattr(Seq2SeqStudent, "forward", broken_from_step_six)

    with pytest.raises(StudentError, match=r"became nan at step 6.*checkpoint-4'") as caught:
        train(max_steps=9, checkpoint_every_steps=2)

    assert "lower training.learning_rate" in str(caught.value)
    kept = tmp_path / "a" / "checkpoints" / "checkpoint-4"
    assert newest_checkpoint(kept.parent, read_manifest(kept).identity) == kept


def test_finite_explosion_leaves_the_checkpoint_before_it_and_a_rerun_goes_on_there(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forward = Seq2SeqStudent.forward
    done, broken = [0], [True]

    def exploding_from_step_eleven(self: Seq2SeqStudent, **batch: Any) -> Any:
        scores = forward(self, **batch)
        done[0] += 1
        return scores._replace(tokens=scores.tokens * 100) if broken and done[0] > 10 else scores

    def losses(name: str) -> list[float]:
        summary = train(name=name, max_steps=20, checkpoint_every_steps=2)
        return [entry["loss"] for entry in summary.history if "loss" in entry]

    monkeypatch.setattr(Seq2SeqStudent, "forward", exploding_from_step_eleven)

    # Five steps above the limit; the weights of step 10 gave the first of them, so 8 is good.
    with pytest.raises(StudentError, match=r"exploded to .* at step 15.*checkpoint-8'"):
        losses("a")

    assert [p.name for p in (tmp_path / "a/checkpoints").glob("ch*")] == ["checkpoint-8"]
    broken.clear()
    done[0] = 0
    again = losses("a")
    assert done == [12]
    assert again == losses("whole")


def test_an_optimizer_without_room_ends_the_training_with_what_to_do(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)

    with pytest.raises(StudentError, match=r"outside a step's examples \(CUDA.*student.lora"):
        train(max_steps=2)


def test_failure_before_the_first_checkpoint_promises_none(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Seq2SeqStudent.forward

    def broken(self: Seq2SeqStudent, **batch: Any) -> Any:
        scores = forward(self, **batch)
        return scores._replace(tokens=scores.tokens * float("nan"))

    monkeypatch.setattr(Seq2SeqStudent, "forward", broken)

    with pytest.raises(StudentError, match="no good checkpoint was written yet"):
        train(max_steps=2)


@pytest.mark.parametrize(
    ("family", "student", "group"),
    [
        ("gpt2", {}, "h.1"),
        ("llama", {}, "layers.1"),
        ("llama", {"lora": {"rank": 2}, "quantization": "nf4"}, "layers.1"),
    ],
)
def test_gradient_norms_of_layer_groups_add_up_to_the_total_in_every_family(
    train: Train,
    tiny: Callable[..., StudentConfig],
    family: str,
    student: dict[str, Any],
    group: str,
) -> None:
    summary = train(student=tiny("causal", family, **student), max_steps=1)

    entry = next(e for e in summary.history if "loss" in e)
    norms = {k.removeprefix("grad_norm/"): v for k, v in entry.items() if "grad_norm/" in k}
    assert any(name.endswith(group) for name in norms), norms
    assert sum(v**2 for v in norms.values()) ** 0.5 == pytest.approx(entry["grad_norm"], rel=1e-3)


def test_tensorboard_is_the_default_and_none_writes_nothing(train: Train, tmp_path: Path) -> None:
    train(name="default", max_steps=1, report_to=[])
    train(name="none", max_steps=1, report_to=["none"])

    assert any((tmp_path / "default" / "tensorboard").rglob("events.out.tfevents*"))
    assert not (tmp_path / "none" / "tensorboard").exists()


def test_other_reporters_go_by_name_and_mistakes_get_one_sentence(tmp_path: Path) -> None:
    known = ("mlflow", "wandb", "swanlab", "clearml")
    absent = next(name for name in known if find_spec(name) is None)

    with pytest.raises(ConfigError, match="'tensorbored' is no reporter"):
        reporters(["tensorbored"], tmp_path)
    with pytest.raises(MissingDependency, match=f"pip install {absent}"):
        reporters([absent], tmp_path)


def test_devices_are_started_by_accelerate_with_one_process_each(tmp_path: Path) -> None:
    command = launch_command(4, 2, tmp_path)

    assert command[1:4] == ["-m", "accelerate.commands.launch", "--multi_gpu"]
    assert "--num_processes=4" in command
    assert "--num_cpu_threads_per_process=2" in command
    assert command[-3:] == ["--module", "student.launched", str(tmp_path)]


@pytest.mark.parametrize(
    ("batch", "devices", "near"), [(30, 4, "28 or 32"), (3, 4, "4"), (33, 2, "32 or 34")]
)
def test_a_batch_that_devices_cannot_share_evenly_is_refused(
    batch: int, devices: int, near: str
) -> None:
    wanted = rf"batch_size {batch} .* devices: {devices}; .* set batch_size to {near}, or"

    with pytest.raises(ValidationError, match=wanted):
        TrainingConfig(batch_size=batch, devices=devices)
    assert TrainingConfig(batch_size=int(near.split()[-1]), devices=devices).devices == devices
