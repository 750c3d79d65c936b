"""A student that first writes out what it reads: what is asked, when it ends, what it survives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from common.config.student import StudentConfig
from common.config.training import Copying, TrainingConfig
from common.errors import ConfigError
from common.fingerprint import digest_path
from common.records import TrainingPair
from common.task import TaskDefinition
from student.checkpoint import WEIGHTS
from student.copying import CopyingPlan, copying_plan
from student.encoding import IGNORE, EncodedExample, Encoder
from student.losses import Terms
from student.models.load import LoadedStudent
from student.preflight import require_trainable
from student.progress import TrainingHooks, TrainingProgress
from student.steps import Objective, micro_batch_terms
from student.train import train_student

Pairs = Callable[[int], list[TrainingPair]]
Tiny = Callable[..., StudentConfig]
Untrained = Callable[..., tuple[LoadedStudent, Encoder]]
AT_REST = {"epochs": 2, "encoder": "rests", "labels": False}
COPIED, TAUGHT = 4, 6  # steps: 16 texts in batches of 8, two and three epochs


class Killed(BaseException):
    """Stands for a process that is gone in mid-step."""


def run(
    student: StudentConfig,
    task: TaskDefinition,
    pairs: list[TrainingPair],
    folder: Path,
    seen: list[TrainingProgress] | None = None,
    die_at: int | None = None,
    **more: Any,
) -> Any:
    def progress(state: TrainingProgress) -> None:
        if state.step == die_at:
            raise Killed
        if seen is not None:
            seen.append(state)

    values = {
        "epochs": 3, "copying": AT_REST, "batch_size": 8, "micro_batch_size": 4, "seed": 5,
        "evaluations": 3, "checkpoint_every_steps": 2, "warmup_share": 0.25, "schedule": "linear",
        "patience": 9,
    }  # fmt: skip
    return train_student(
        student=student,
        training=TrainingConfig.model_validate({**values, **more}),
        task=task,
        train=pairs[:16],
        validation=pairs[16:],
        folder=folder,
        hooks=TrainingHooks(progress=progress),
        threads=1,
    )


def test_it_copies_with_a_schedule_of_its_own_and_is_judged_afterwards(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    seen: list[TrainingProgress] = []

    summary = run(tiny("seq2seq", "t5"), task, make_pairs(21), tmp_path, seen)

    copying, taught = seen[:COPIED], seen[COPIED:]
    assert [s.total_steps for s in seen] == [COPIED + TAUGHT] * (COPIED + TAUGHT)
    assert all(s.label_loss is None and s.rationale_loss is None for s in copying)
    assert all(s.label_loss is not None and s.rationale_loss is not None for s in taught)
    # Linear: up over a quarter of the steps, down to 0 at the end, twice.
    top = max(s.learning_rate for s in seen)
    shares = [s.learning_rate / top for s in seen]
    assert shares[: COPIED - 1] == pytest.approx([1, 2 / 3, 1 / 3])
    assert shares[COPIED:] == pytest.approx([1 / 2, 1, 3 / 4, 1 / 2, 1 / 4, 0])
    judged = [e["step"] for e in summary.history if "eval_accuracy" in e]
    assert judged == [6, 8, 10]  # every second, counted from the end of copying
    told = f"copied its texts first (steps: 4); the copy's last loss was {copying[-1].loss:.2f} "
    assert summary.notes == seen[-1].notes == [f"{told}nats a token"]


@pytest.mark.parametrize("family", ["bert", "t5"])
@pytest.mark.parametrize("encoder", ["rests", "learns"])
def test_an_encoder_at_rest_stays_as_it_is_while_the_decoder_copies(
    encoder: str, family: str, task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    config = tiny("seq2seq", family, dropout=0.0)
    more: dict[str, Any] = {"copying": {**AT_REST, "encoder": encoder}}
    kept: dict[int, dict[str, torch.Tensor]] = {}
    for last in (2, COPIED, COPIED + 2):  # a killed training's newest checkpoint is one before
        with pytest.raises(Killed):
            run(config, task, make_pairs(21), tmp_path, die_at=last + 1, **more)
        folder = tmp_path / "checkpoints" / f"checkpoint-{last}"
        kept[last] = load_file(folder / WEIGHTS)
    sides = ("model.encoder.", "model.decoder.")

    def moved(first: int, second: int) -> list[bool]:
        return [
            any(
                not torch.equal(value, kept[second][name])
                for name, value in kept[first].items()
                if name.startswith(side)
            )
            for side in sides
        ]

    assert moved(2, COPIED) == [encoder == "learns", True]
    assert moved(COPIED, COPIED + 2) == [True, True]


def test_evaluations_are_counted_from_the_end_of_copying() -> None:
    plan = CopyingPlan(steps=7)

    assert [s for s in range(1, 20) if plan.due(s, 5, 19)] == [12, 17, 19]
    assert not any(plan.due(s, None, 19) for s in range(1, 20))


def test_both_warm_ups_take_their_share() -> None:
    training = TrainingConfig.model_validate(
        {"copying": {"epochs": 6.25, "encoder": "rests"}, "batch_size": 4}
    )
    example = EncodedExample(((1,),), (), 0)

    plan = copying_plan(training, [example] * 63, 0.06)

    assert (plan.steps, plan.warmup, plan.encoder_rests) == (100, 6, True)
    assert copying_plan(TrainingConfig(), [example], 0.06).steps == 0


def test_what_it_has_copied_counts_as_seen(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    pairs, student = make_pairs(21), tiny("seq2seq", "t5", task_signal="decoder")

    plain = run(student, task, pairs, tmp_path / "a", copying=None)
    copied = run(student, task, pairs, tmp_path / "b")

    assert copied.examples_seen == plain.examples_seen + 2 * 16
    assert copied.tokens_seen > plain.tokens_seen


def test_a_label_only_student_can_copy_too(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    seen: list[TrainingProgress] = []

    run(tiny("seq2seq", "t5"), task, make_pairs(21), tmp_path, seen, rationale_weight=0)

    assert all(s.rationale_loss is None for s in seen)
    assert all(s.gradient_norm > 0.01 for s in seen[:COPIED])


@pytest.mark.parametrize(
    ("family", "copying"), [("t5", AT_REST), ("bert", AT_REST), ("bert", {"epochs": 2})]
)
def test_killed_while_copying_at_its_end_and_after_it_ends_bit_identical(
    family: str,
    copying: dict[str, Any],
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    tmp_path: Path,
) -> None:
    pairs, config = make_pairs(21), tiny("seq2seq", family, dropout=0.1)
    undisturbed = run(config, task, pairs, tmp_path / "a", copying=copying)

    for step in (3, COPIED + 1, 8):  # the second resumes from the checkpoint at the boundary
        with pytest.raises(Killed):
            run(config, task, pairs, tmp_path / "b", die_at=step, copying=copying)
    resumed = run(config, task, pairs, tmp_path / "b", copying=copying)

    first, second = (tmp_path / name / "model" / "model.safetensors" for name in "ab")
    assert digest_path(first) == digest_path(second)
    assert resumed.notes == undisturbed.notes
    assert resumed.tokens_seen == undisturbed.tokens_seen


@pytest.mark.parametrize("signal", ["prefix", "decoder"])
def test_a_copy_is_read_as_a_text_to_be_explained_and_asks_for_all_of_it(
    signal: str, task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, untrained: Untrained
) -> None:
    pairs, config = make_pairs(3), tiny("seq2seq", "t5", task_signal=signal)
    loaded, encoder = untrained(config, task, pairs)

    copy = encoder.encode_pair(pairs[0], copying=Copying(labels=False)).copy

    assert copy is not None
    context, opening = encoder.explain_inputs(pairs[0].text)
    assert copy.contexts == (context,)
    (branch,) = copy.branches
    assert branch.inputs[: len(opening)] == opening
    asked = [t for t in branch.targets if t != IGNORE]
    text = loaded.tokenizer(pairs[0].text, add_special_tokens=False)["input_ids"]
    assert asked == [*text, loaded.tokens.end]
    assert encoder.encode_pair(pairs[0]).copy is None


@pytest.mark.parametrize("family", ["t5", "bert"])
@pytest.mark.parametrize("signal", ["prefix", "decoder"])
def test_labels_learnt_while_copying_cost_the_sum_of_labels_alone_and_copy_alone(
    signal: str,
    family: str,
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    untrained: Untrained,
) -> None:
    pairs, config = make_pairs(5), tiny("seq2seq", family, task_signal=signal, dropout=0.0)
    loaded, encoder = untrained(config, task, pairs)
    loaded.module.double()
    shares = dict.fromkeys(task.label_names, 1 / len(task.label_names))
    soft = [p.model_copy(update={"probabilities": shares, "weight": 0.5}) for p in pairs]

    def terms(examples: list[EncodedExample]) -> Terms:
        objective = Objective(soft_share=0.5, temperature=2.0)
        with torch.no_grad():
            return micro_batch_terms(loaded.module, examples, objective, torch.device("cpu"))

    def copies(labels: bool) -> list[EncodedExample]:
        copying = Copying(labels=labels)
        examples = [encoder.encode_pair(p, copying=copying, all_labels=True) for p in soft]
        return [e.copy for e in examples if e.copy is not None]

    judged = [encoder.encode_pair(p, rationale=False, all_labels=True) for p in soft]
    label, copy, both = terms(judged), terms(copies(False)), terms(copies(True))

    assert min(label.label, copy.rationale) > 0
    assert float(both.label) == pytest.approx(float(label.label), rel=1e-9)
    assert float(both.rationale) == pytest.approx(float(copy.rationale), rel=1e-9)
    assert (float(label.rationale), float(copy.label)) == (0, 0)


def test_labels_learnt_while_copying_are_reported_beside_the_copy(
    task: TaskDefinition, tiny: Tiny, make_pairs: Pairs, tmp_path: Path
) -> None:
    seen: list[TrainingProgress] = []
    more: dict[str, Any] = {"copying": {"epochs": 2, "labels": True}, "rationale_weight": 0.25}

    summary = run(tiny("seq2seq", "t5"), task, make_pairs(21), tmp_path, seen, **more)

    logged = {e["step"]: e for e in summary.history if "loss" in e}
    for state in seen[:COPIED]:
        copied = logged[state.step]["copy_loss"]
        assert state.rationale_loss is None
        assert state.label_loss is not None
        assert state.loss == pytest.approx(state.label_loss + copied)  # the copy's weight is 1
    for state in seen[COPIED:]:
        assert "copy_loss" not in logged[state.step]
        assert state.label_loss is not None
        assert state.rationale_loss is not None
        assert state.loss == pytest.approx(state.label_loss + 0.25 * state.rationale_loss)
    assert f"last loss was {logged[COPIED]['copy_loss']:.2f} nats" in summary.notes[0]


@pytest.mark.parametrize(("read", "written", "kept"), [(64, 9, 9), (16, 64, None), (64, 64, None)])
def test_of_a_long_text_as_much_is_asked_as_is_read(
    read: int,
    written: int,
    kept: int | None,
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    untrained: Untrained,
) -> None:
    pairs = make_pairs(3)
    config = tiny("seq2seq", "t5", max_input_tokens=read, max_rationale_tokens=written)
    loaded, encoder = untrained(config, task, pairs)
    words = [pair.text.split()[0] for pair in pairs]
    pair = pairs[0].model_copy(update={"text": " ".join(words * 6)})

    copy = encoder.encode_pair(pair, copying=Copying(labels=False)).copy

    assert copy is not None
    asked = loaded.tokenizer.decode([t for t in copy.branches[0].targets if t != IGNORE][:-1])
    seen = loaded.tokenizer.decode(list(copy.contexts[0]), skip_special_tokens=True)
    assert seen == f"explain: {asked}"
    assert len(copy.contexts[0]) <= read
    assert kept is None or copy.branches[0].target_count == kept + 1
    assert (asked == pair.text) == (min(read, written) == 64)


@pytest.mark.parametrize("signal", ["prefix", "decoder"])
@pytest.mark.parametrize("longest", [9, 64])
def test_labels_learnt_while_copying_are_told_by_the_whole_text(
    longest: int,
    signal: str,
    task: TaskDefinition,
    tiny: Tiny,
    make_pairs: Pairs,
    untrained: Untrained,
) -> None:
    pairs = make_pairs(3)
    config = tiny("seq2seq", "t5", task_signal=signal, max_rationale_tokens=longest)
    loaded, encoder = untrained(config, task, pairs)

    example = encoder.encode_pair(pairs[0], copying=Copying(labels=True))

    assert example.copy is not None
    label, copied = example.copy.branches
    (scored,) = encoder.encode_text(pairs[0].text).contexts
    assert example.copy.contexts[label.context] == scored
    read = example.copy.contexts[copied.context]
    asked = loaded.tokenizer.decode([t for t in copied.targets if t != IGNORE][:-1])
    word = "explain: " if signal == "prefix" else ""
    assert loaded.tokenizer.decode(list(read), skip_special_tokens=True) == f"{word}{asked}"
    # Where it fits whole, the decoder's signal needs one encoding for both.
    assert len(example.copy.contexts) == (2 if signal == "prefix" or longest == 9 else 1)


@pytest.mark.parametrize("architecture", ["causal", "classifier"])
def test_only_a_decoder_that_reads_an_encoder_can_copy(
    architecture: str, task: TaskDefinition
) -> None:
    student = StudentConfig.model_validate({"architecture": architecture, "model": "owner/name"})

    with pytest.raises(ConfigError, match=r"^training.copying teaches .* expected architecture:"):
        require_trainable("student", student, TrainingConfig(copying=Copying()), task, here=False)
