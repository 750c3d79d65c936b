"""A whole training: it learns, resumes bit for bit, stops when asked and when it must."""

import json
import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.errors import DiskFull, InputError, JobCancelled, StudentError
from common.fingerprint import digest_path
from common.records import TrainingPair
from common.task import TaskDefinition
from student.encoding import Encoder, encode_pairs
from student.models.load import Plan, load_student
from student.predict import Predictor
from student.progress import TrainingHooks, TrainingProgress
from student.steps import Objective, batch_totals, micro_batch_terms
from student.train import train_student

Pairs = Callable[[int], list[TrainingPair]]
Tiny = Callable[..., StudentConfig]

KINDS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("seq2seq", "t5", {}, {}),
    ("seq2seq", "t5", {"task_signal": "decoder"}, {"precision": "bf16"}),
    ("seq2seq", "bert", {"task_signal": "decoder"}, {}),
    ("seq2seq", "t5", {"lora": {"rank": 4}}, {}),
    ("seq2seq", "t5", {"lora": {"rank": 4}, "quantization": "nf4"}, {}),
    ("seq2seq", "bert", {}, {"gradient_checkpointing": True}),
    ("causal", "gpt2", {}, {}),
    (
        "causal",
        "gpt2",
        {"lora": {"rank": 4, "targets": ["c_attn"]}, "prompt": "fingpt"},
        {"rationale_weight": 0, "prompt_loss": "as_published"},
    ),
    ("causal", "llama", {"lora": {"rank": 4}}, {}),
    ("causal", "llama", {"lora": {"rank": 4}, "quantization": "nf4"}, {}),
    (
        "causal",
        "llama",
        {"lora": {"rank": 4}, "quantization": "nf4"},
        {"precision": "bf16", "gradient_checkpointing": True},
    ),
    ("classifier", "llama", {"lora": {"rank": 4}, "quantization": "nf4"}, {"epochs": 6}),
    ("classifier", "t5", {"dropout": 0.0}, {"learning_rate": 3e-3, "epochs": 6}),
    ("classifier", "bert", {"dropout": 0.0}, {"learning_rate": 5e-3, "epochs": 8}),
]


class Killed(BaseException):
    """Stands for a process that is gone in mid-step: nothing gets to clean up."""


def die_at(step: int) -> TrainingHooks:
    def progress(state: TrainingProgress) -> None:
        if state.step == step:
            raise Killed

    return TrainingHooks(progress=progress)


def settings(**more: Any) -> TrainingConfig:
    values = {"epochs": 3, "batch_size": 8, "micro_batch_size": 4, "seed": 5, "evaluations": 3}
    return TrainingConfig.model_validate({**values, "checkpoint_every_steps": 2, **more})


def run(
    student: StudentConfig,
    task: TaskDefinition,
    pairs: list[TrainingPair],
    folder: Path,
    hooks: TrainingHooks | None = None,
    **more: Any,
) -> Any:
    return train_student(
        student=student,
        training=settings(**more),
        task=task,
        train=pairs[:-5],
        validation=pairs[-5:],
        folder=folder,
        hooks=hooks,
        threads=1,
    )


def weights(folder: Path) -> dict[str, str]:
    return {p.name: digest_path(p) for p in sorted((folder / "model").rglob("*.safetensors"))}


@pytest.mark.parametrize(("architecture", "family", "student", "training"), KINDS)
def test_every_kind_trains_saves_and_predicts_again(
    architecture: str,
    family: str,
    student: dict[str, Any],
    training: dict[str, Any],
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    tmp_path: Path,
) -> None:
    pairs = make_pairs(21)
    config = tiny(architecture, family, max_rationale_tokens=8, **student)

    summary = run(config, task, pairs, tmp_path, **training)

    losses = [entry["loss"] for entry in summary.history if "loss" in entry]
    assert summary.steps == 2 * training.get("epochs", 3)
    assert losses[-1] < losses[0]
    assert summary.tiny
    assert summary.best_validation is not None
    predictor = Predictor.load(tmp_path / "model")
    answers = predictor.predict([p.text for p in pairs], rationales=True, batch_size=4)
    accuracy = sum(a.label == p.label for a, p in zip(answers[-5:], pairs[-5:], strict=True)) / 5
    assert accuracy == pytest.approx(summary.best_validation["accuracy"])
    assert all(abs(sum(a.probabilities.values()) - 1) < 1e-5 for a in answers)
    silent = architecture == "classifier" or training.get("rationale_weight") == 0
    assert all((a.rationale is None) == silent for a in answers)


@pytest.mark.parametrize(("architecture", "family"), [("seq2seq", "t5"), ("causal", "gpt2")])
def test_killed_and_resumed_training_ends_bit_identical(
    architecture: str,
    family: str,
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    tmp_path: Path,
) -> None:
    pairs, config = make_pairs(37), tiny(architecture, family, dropout=0.1)
    undisturbed = run(config, task, pairs, tmp_path / "a")

    for step in (3, 7, 8):
        with pytest.raises(Killed):
            run(config, task, pairs, tmp_path / "b", die_at(step))
    resumed = run(config, task, pairs, tmp_path / "b")

    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert resumed.examples_seen == undisturbed.examples_seen
    assert resumed.best_validation == undisturbed.best_validation


def test_crash_between_the_last_step_and_the_model_adds_no_step(
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs, config = make_pairs(37), tiny("causal", "gpt2")
    odd: dict[str, Any] = {"max_steps": 5, "checkpoint_every_steps": 5, "evaluations": 0}
    undisturbed = run(config, task, pairs, tmp_path / "a", **odd)

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("student.train.write_model", die)
        with pytest.raises(Killed):
            run(config, task, pairs, tmp_path / "b", **odd)
    resumed = run(config, task, pairs, tmp_path / "b", **odd)

    assert (resumed.steps, undisturbed.steps) == (5, 5)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_training_stops_early_when_validation_stays_stale(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    summary = run(
        tiny("seq2seq", "t5"),
        task,
        make_pairs(21),
        tmp_path,
        epochs=20,
        evaluations=20,
        patience=2,
        min_improvement=10.0,
    )

    assert summary.stopped_early
    assert summary.steps == 2 * (1 + 2)  # the first evaluation is the best, two more are stale
    assert summary.best_step is not None


@pytest.mark.slow
def test_process_killed_five_times_at_random_ends_bit_identical(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    pairs, config = make_pairs(45), tiny("seq2seq", "t5", dropout=0.1)
    many: dict[str, Any] = {"epochs": 12, "evaluations": 4}
    run(config, task, pairs, tmp_path / "a", **many)
    draw = random.Random(7)

    def one_process() -> "multiprocessing.process.BaseProcess":
        started = multiprocessing.get_context("spawn").Process(
            target=run, args=(config, task, pairs, tmp_path / "b"), kwargs=many
        )
        started.start()
        return started

    def checkpoints() -> list[Path]:
        return sorted((tmp_path / "b" / "checkpoints").glob("checkpoint-*"))

    for _ in range(5):
        process, known = one_process(), checkpoints()
        while process.is_alive() and checkpoints() == known:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.15))
        process.kill()
        process.join()
        assert not (tmp_path / "b" / "model").exists(), "ended before it could be killed"
    run(config, task, pairs, tmp_path / "b", **many)

    assert weights(tmp_path / "a") == weights(tmp_path / "b")


@pytest.mark.slow
@pytest.mark.parametrize(
    "copied", [None, {"epochs": 1}, {"epochs": 1, "encoder": "rests", "labels": False}]
)
def test_two_processes_train_what_one_does(
    copied: dict[str, Any] | None,
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    tmp_path: Path,
) -> None:
    pairs, config = make_pairs(21), tiny("seq2seq", "t5", dropout=0.0)
    seen: list[int] = []
    hooks = TrainingHooks(progress=lambda state: seen.append(state.step))
    one = run(config, task, pairs, tmp_path / "a", copying=copied)

    two = run(config, task, pairs, tmp_path / "b", hooks, devices=2, copying=copied)

    assert seen == list(range(1, 9 if copied else 7))
    assert two.examples_seen == one.examples_seen
    for first, second in zip(one.history, two.history, strict=True):
        if "loss" in first:
            terms = ("loss", "label_loss", "rationale_loss")
            assert [second.get(t, 0) for t in terms] == pytest.approx(
                [first.get(t, 0) for t in terms], rel=1e-3
            )
            assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-3)


def test_cancelled_training_keeps_a_checkpoint_and_goes_on_later(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    pairs, config = make_pairs(29), tiny("seq2seq", "t5")
    steps: list[int] = []
    hooks = TrainingHooks(
        progress=lambda state: steps.append(state.step), cancelled=lambda: len(steps) == 3
    )

    with pytest.raises(JobCancelled, match="cancelled at step 3 of 9"):
        run(config, task, pairs, tmp_path, hooks)

    kept = tmp_path / "checkpoints" / "checkpoint-3"
    assert {p.suffix for p in kept.iterdir()} == {".json", ".safetensors"}  # no pickle
    assert not (tmp_path / "model").exists()
    run(config, task, pairs, tmp_path, hooks)
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8, 9]


# In the words of the libraries that write (safetensors on a full tmpfs; shutil's list of failures).
FULL = [
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]),
    OSError(28, "No space left on device"),
]


@pytest.mark.parametrize(
    ("place", "error"),
    [
        *(("student.resume.write_state", error) for error in FULL),
        ("student.job.write_calibration", FULL[-1]),
    ],
)
def test_full_disk_is_told_and_the_training_goes_on_from_where_it_was(
    place: str,
    error: Exception,
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> None:
        raise error

    pairs, config = make_pairs(21), tiny("seq2seq", "t5")
    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.raises(DiskFull, match="the disk is full: '"):
            run(config, task, pairs, tmp_path, epochs=1)

    assert not (tmp_path / "model").exists()
    assert run(config, task, pairs, tmp_path, epochs=1).steps == 2


def test_finished_training_is_not_done_again_but_another_one_is(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    pairs, config = make_pairs(21), tiny("seq2seq", "t5")
    first = run(config, task, pairs, tmp_path)
    seen: list[int] = []
    hooks = TrainingHooks(progress=lambda state: seen.append(state.step))

    again = run(config, task, pairs, tmp_path, hooks)
    assert (again, seen) == (first, [])

    run(config, task, pairs, tmp_path, hooks, learning_rate=2e-3)
    assert len(seen) == 6


def test_precision_is_that_of_each_training_whatever_ran_before(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    # accelerate keeps its precision in a process-wide singleton.
    pairs, config = make_pairs(13), tiny("causal", "gpt2", dropout=0.0)

    losses = [
        run(config, task, pairs, tmp_path / str(i), precision=precision).history[0]["loss"]
        for i, precision in enumerate(["float32", "bf16", "float32", "bf16"])
    ]

    assert losses[0] == losses[2]
    assert losses[1] == losses[3]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_log_holds_both_terms_norms_rate_speed_and_memory(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    summary = run(tiny("seq2seq", "t5"), task, make_pairs(21), tmp_path)

    entry = next(e for e in summary.history if "loss" in e)
    assert {"label_loss", "rationale_loss", "grad_norm", "learning_rate", "step"} <= entry.keys()
    assert {"tokens_per_second", "peak_memory_bytes", "grad_norm/encoder.block.0"} <= entry.keys()
    assert entry["loss"] == pytest.approx(entry["label_loss"] + entry["rationale_loss"], rel=1e-4)
    groups = [v for k, v in entry.items() if k.startswith("grad_norm/")]
    assert sum(v**2 for v in groups) ** 0.5 == pytest.approx(entry["grad_norm"], rel=1e-3)


def test_tensorboard_keeps_the_curves_where_the_training_lies(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    run(tiny("seq2seq", "t5"), task, make_pairs(13), tmp_path, report_to=["tensorboard"])

    assert any((tmp_path / "tensorboard").rglob("events.out.tfevents*"))


def test_half_written_model_is_no_student(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"half")

    with pytest.raises(StudentError, match="no finished student"):
        Predictor.load(tmp_path / "model")


def test_exploding_learning_rate_stops_with_a_sentence(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    with pytest.raises(StudentError, match=r"lower .*learning_rate"):
        run(
            tiny("causal", "gpt2"),
            task,
            make_pairs(21),
            tmp_path,
            learning_rate=1e18,
            max_grad_norm=1e30,
            epochs=20,
            evaluations=0,
        )


def test_unknown_labels_and_no_pairs_are_refused(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    pairs = make_pairs(10)
    strange = [pairs[0].model_copy(update={"label": "joyful"}), *pairs[1:]]

    with pytest.raises(StudentError, match="joyful"):
        run(tiny("seq2seq", "t5"), task, strange, tmp_path)
    with pytest.raises(InputError, match="not a single training pair"):
        run(tiny("seq2seq", "t5"), task, pairs[:5], tmp_path)


def test_manifest_tells_where_the_weights_come_from(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    run(tiny("seq2seq", "t5"), task, make_pairs(21), tmp_path)

    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())

    assert manifest["student"]["model"] == "tiny-random"
    assert manifest["training"]["seed"] == 5
    assert len(manifest["data_fingerprint"]) == 64
    assert {"torch", "transformers"} <= manifest["versions"].keys()
    assert manifest["summary"]["history"]
    assert not list((tmp_path / "model").rglob("*.bin"))


@pytest.mark.parametrize(("architecture", "family"), [("seq2seq", "t5"), ("causal", "gpt2")])
@pytest.mark.parametrize("size", [3, 16])
def test_a_step_applies_the_gradient_of_the_whole_batchs_loss_and_no_multiple_of_it(
    architecture: str,
    family: str,
    size: int,
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    tmp_path: Path,
) -> None:
    pairs, config = make_pairs(21), tiny(architecture, family, dropout=0.0)
    summary = run(
        config, task, pairs, tmp_path, batch_size=16, micro_batch_size=size, epochs=1, evaluations=0
    )
    plan = Plan(row_tokens=256, device=torch.device("cpu"))
    loaded = load_student(config, task, str(tmp_path / "tiny-base"), plan)
    encoder = Encoder(config, task, loaded.tokenizer, loaded.tokens)
    examples = encode_pairs(encoder, pairs[:-5], rationale=True)

    terms = micro_batch_terms(loaded.module, examples, Objective(), plan.device)
    loss = terms.loss(batch_totals(examples), 1.0)
    loss.backward()  # type: ignore[no-untyped-call]

    found = [p.grad for p in loaded.module.parameters() if p.grad is not None]
    squares = [gradient.double().square().sum() for gradient in found]
    assert summary.history[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert summary.history[0]["grad_norm"] == pytest.approx(float(sum(squares) ** 0.5), rel=1e-4)


def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from student.models.seq2seq import Seq2SeqStudent

    # Dropout on: the halved step must start from the noise of a step that began with that size.
    pairs, config = make_pairs(21), tiny("seq2seq", "t5", dropout=0.2)
    plain = run(config, task, pairs, tmp_path / "a", micro_batch_size=2)
    forward, calls = Seq2SeqStudent.forward, 0

    def small_device(self: Seq2SeqStudent, **batch: Any) -> Any:
        nonlocal calls
        calls += self.training
        if self.training and len(batch["row_ids"]) > 2 and calls != 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(self, **batch)  # of the first size one part has run: its gradient must go

    monkeypatch.setattr(Seq2SeqStudent, "forward", small_device)
    halved = run(config, task, pairs, tmp_path / "b", micro_batch_size=4)

    assert halved.micro_batch_size == 2
    assert "out of memory at step 1" in halved.notes[0]
    for figure in ("loss", "grad_norm"):
        found, wanted = ([e[figure] for e in s.history if figure in e] for s in (halved, plain))
        assert found == wanted, figure


def test_a_single_example_without_room_is_an_error(
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from student.models.seq2seq import Seq2SeqStudent

    def no_room(self: Seq2SeqStudent, **batch: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(Seq2SeqStudent, "forward", no_room)

    with pytest.raises(StudentError, match="out of memory with 1 examples at a time"):
        run(tiny("seq2seq", "t5"), task, make_pairs(21), tmp_path)
