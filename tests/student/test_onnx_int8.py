"""Int8 by rows keeps what one scale for a whole tensor loses; near ties are looked at twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.config.student import StudentConfig
from common.config.training import TrainingConfig
from common.records import TrainingPair
from common.task import TaskDefinition
from student.export.export import export_student
from student.predict import Predictor
from student.train import train_student

onnx = pytest.importorskip("onnx", reason="needs the optional packages: finstill[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs finstill[export]")

from student.export.onnx_int8 import halved, rows_to_int8  # noqa: E402
from student.export.onnx_runtime import EXACT, MARGIN, MODEL  # noqa: E402

ROWS, INNER, COLUMNS = 40, 64, 48
Pairs = Callable[[int], list[TrainingPair]]
Tiny = Callable[..., StudentConfig]


def product(weights: Any) -> Any:
    """x (any, INNER) times constant weights."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kind, ["rows", INNER])],
        [helper.make_tensor_value_info("y", kind, ["rows", COLUMNS])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def computed(model: Any, rows: Any) -> Any:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"x": rows})
    return found


@pytest.fixture(scope="module")
def numbers() -> tuple[Any, Any]:
    """Rows with one loud row and one loud channel, and weights."""
    draw = np.random.default_rng(3)
    rows = draw.normal(size=(ROWS, INNER)).astype(np.float32)
    rows[0] *= 100
    rows[:, 5] *= 30
    return rows, draw.normal(size=(INNER, COLUMNS)).astype(np.float32)


def test_a_loud_row_and_a_loud_channel_leave_the_others_their_steps(
    numbers: tuple[Any, Any], tmp_path: Path
) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    rows, weights = numbers
    plain = product(weights)
    exact = rows @ weights
    onnx.save_model(plain, tmp_path / "plain.onnx")
    quantize_dynamic(
        tmp_path / "plain.onnx", tmp_path / "one.onnx", per_channel=True,
        weight_type=QuantType.QInt8,
    )  # fmt: skip

    ours = computed(rows_to_int8(plain, [{"x": rows}]), rows)
    theirs = computed(onnx.load(tmp_path / "one.onnx"), rows)

    def error(found: Any) -> float:
        quiet = slice(1, None)
        return float(np.abs(found[quiet] - exact[quiet]).mean() / np.abs(exact[quiet]).mean())

    assert error(ours) < 0.01
    assert error(theirs) > 10 * error(ours)


def test_a_row_of_zeros_gives_zeros(numbers: tuple[Any, Any]) -> None:
    rows, weights = numbers
    model = rows_to_int8(product(weights), [{"x": rows}])

    found = computed(model, np.zeros((2, INNER), np.float32))

    assert np.array_equal(found, np.zeros((2, COLUMNS), np.float32))


def test_halved_matrices_are_those_of_float16(numbers: tuple[Any, Any]) -> None:
    rows, weights = numbers

    found = computed(halved(product(weights)), rows)

    assert np.allclose(found, rows @ weights.astype(np.float16).astype(np.float32), rtol=1e-4)


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, task: TaskDefinition, tiny: Tiny, make_pairs: Pairs
) -> tuple[Path, Path]:
    """A trained student and its int8 export."""
    folder, pairs = tmp_path_factory.mktemp("student"), make_pairs(30)
    train_student(
        student=tiny("seq2seq", "bert", task_signal="decoder"), task=task, train=pairs[:20],
        training=TrainingConfig(epochs=2, batch_size=8, learning_rate=5e-3, seed=5, evaluations=0),
        validation=pairs[20:], folder=folder, threads=1,
    )  # fmt: skip
    export_student(folder / "model", "onnx", folder / "int8", [p.text for p in pairs])
    return folder / "model", folder / "int8"


def with_margin(folder: Path, margin: float) -> Predictor:
    model = onnx.load(folder / MODEL)
    onnx.helper.set_model_props(model, {MARGIN: str(margin)})
    onnx.save_model(model, folder / MODEL)
    return Predictor.load(folder)


def test_texts_in_doubt_are_scored_again_in_float32(
    folders: tuple[Path, Path], make_pairs: Pairs
) -> None:
    student, export = folders
    texts = [pair.text for pair in make_pairs(12)]
    properties = onnx.load(export / MODEL).metadata_props
    margin = next(float(p.value) for p in properties if p.key == MARGIN)
    own = Predictor.load(student).scores(texts)

    never, always = (with_margin(export, m).scores(texts) for m in (0.0, 2.0))

    assert 0 < margin < 0.2
    assert torch.allclose(always, own, atol=2e-3)
    assert (always - own).abs().mean() < (never - own).abs().mean()
    with_margin(export, margin)


def test_an_export_without_doubts_reads_no_exact_weights(
    folders: tuple[Path, Path], make_pairs: Pairs
) -> None:
    _, export = folders
    never = with_margin(export, 0.0)
    (export / EXACT).rename(export / "elsewhere")

    assert len(never.scores([pair.text for pair in make_pairs(3)])) == 3

    (export / "elsewhere").rename(export / EXACT)


def test_a_label_does_not_depend_on_the_texts_beside_it(
    folders: tuple[Path, Path], make_pairs: Pairs
) -> None:
    _, export = folders
    runtime = with_margin(export, 0.0)
    texts = [pair.text for pair in make_pairs(20)]

    together = runtime.scores(texts)
    alone = torch.cat([runtime.scores([text]) for text in texts])

    assert torch.allclose(together, alone, atol=5e-3)


def test_a_student_too_narrow_for_int8_is_exported_as_it_is(
    task: TaskDefinition, make_pairs: Pairs, tmp_path: Path
) -> None:
    """Below LEAST_SIDE no matrix is quantised, and no channel is asked for its size."""
    shape = {"family": "bert", "hidden": 16, "layers": 1, "heads": 2, "feed_forward": 16}
    narrow = StudentConfig.model_validate(
        {"architecture": "classifier", "model": "tiny-random", "tiny": shape}
    )
    pairs = make_pairs(12)
    train_student(
        student=narrow, task=task, train=pairs, validation=[], folder=tmp_path, threads=1,
        training=TrainingConfig(max_steps=1, batch_size=8, evaluations=0, seed=5),
    )  # fmt: skip
    texts = [p.text for p in pairs]

    record = export_student(tmp_path / "model", "onnx", tmp_path / "int8", texts, threads=1)

    assert record.numbers == "int8"
    assert record.check["probability"] < 1e-3
