"""
Products of int8 in an ONNX graph, every row of activations with a scale of its own.

ONNX Runtime's own dynamic quantisation takes one scale for a whole tensor: one token with large
activations (in BERT: the first, the separator) leaves a few of the 256 steps to all others, and a
text's label depends on the texts that share its batch. Here the left side of a product is divided
by the largest number of its row, the right side by that of its column, as CTranslate2 does and as
LLM.int8 proposes (Dettmers et al. 2022, section 2, "vector-wise"). What is large in the same
channel everywhere is first moved into the weights, half way (SmoothQuant, Xiao et al. 2023, eq. 4,
alpha 0.5). Measured against the alternatives in docs/students.md.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]  # input name: values

LEAST_SIDE = 24  # smaller matrices (position biases, rows of the head) gain nothing
STEPS, MIDDLE = 127, 128
TINY = 1e-30
MICROSOFT = "com.microsoft"


def rows_to_int8(model: Any, feeds: Iterable[Feed]) -> Any:
    """
    The model (an onnx.ModelProto in float32, changed in place) with its products by constant
    matrices in int8 and its embeddings in float16. Everything else stays as it is.

    `feeds`: batches of ordinary inputs, from which the channels' sizes are read.
    """
    from onnx import helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    products = [
        n for n in graph.node if n.op_type == "MatMul" and _is_weight(constants, n.input[1])
    ]
    writer = _Writer(constants, _smoothing(model, products, constants, feeds))
    for node in graph.node:
        writer.take(node)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(writer.nodes)
    graph.initializer.extend(writer.kept())
    model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return model


def halved(model: Any) -> Any:
    """The model (changed in place) with its large matrices kept as float16, computed in float32."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    for tensor in graph.initializer:
        if _is_weight({tensor.name: tensor}, tensor.name):
            name, values = tensor.name, numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            graph.node.insert(
                0, helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)
            )
    return model


def _smoothing(
    model: Any, products: list[Any], constants: dict[str, Any], feeds: Iterable[Feed]
) -> dict[str, Array]:
    """By what each channel of a product's left side is divided; its readers share one vector."""
    from onnx import numpy_helper

    weights: dict[str, Array] = {}
    for node in products:
        rows = np.abs(numpy_helper.to_array(constants[node.input[1]])).max(1)
        weights[node.input[0]] = np.maximum(rows, weights.get(node.input[0], rows))
    sizes = _channel_sizes(model, {name: len(rows) for name, rows in weights.items()}, feeds)
    return {
        name: np.sqrt(np.maximum(sizes[name], 1e-5) / np.maximum(rows, 1e-5)).astype(np.float32)
        for name, rows in weights.items()
    }


def _channel_sizes(model: Any, widths: dict[str, int], feeds: Iterable[Feed]) -> dict[str, Array]:
    """The largest number seen in every channel (last axis) of the named tensors."""
    import onnxruntime
    from onnx import ModelProto, TensorProto, helper, numpy_helper

    if not widths:  # every matrix is below LEAST_SIDE, and a session must be asked for something
        return {}
    watched = ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    del graph.output[:]
    for number, (name, width) in enumerate(widths.items()):
        shape, flat, size = (f"seen{number}.{part}" for part in ("shape", "flat", "size"))
        graph.initializer.append(numpy_helper.from_array(np.array([-1, width]), shape))
        graph.node.append(helper.make_node("Reshape", [name, shape], [flat]))
        graph.node.append(helper.make_node("Abs", [flat], [f"{flat}.abs"]))
        graph.node.append(
            helper.make_node("ReduceMax", [f"{flat}.abs"], [size], axes=[0], keepdims=0)
        )
        graph.output.append(helper.make_tensor_value_info(size, TensorProto.FLOAT, [width]))
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = [session.run(None, feed) for feed in feeds]
    return {name: np.max([run[i] for run in found], axis=0) for i, name in enumerate(widths)}


class _Writer:
    """The new nodes and constants, in order. A row's scale is computed once for all its readers."""

    def __init__(self, constants: dict[str, Any], smoothing: dict[str, Array]):
        self.nodes: list[Any] = []
        self._constants, self._smoothing = constants, smoothing
        self._rows = dict[str, tuple[str, str]]()
        self._add_constant("int8.one", np.float32(1))
        self._add_constant("int8.middle", np.uint8(MIDDLE))
        self._add_constant("int8.per_step", np.float32(1 / STEPS))
        self._add_constant("int8.tiny", np.float32(TINY))  # a row of zeros stays one

    def take(self, node: Any) -> None:
        """Write `node`, or what stands for it."""
        if node.op_type == "MatMul" and _is_weight(self._constants, node.input[1]):
            self._product(node)
        elif node.op_type == "Gather" and _is_weight(self._constants, node.input[0]):
            self._embedding(node)
        else:
            self.nodes.append(node)

    def kept(self) -> list[Any]:
        """The constants that some node still reads."""
        read = {name for node in self.nodes for name in node.input}
        return [tensor for name, tensor in self._constants.items() if name in read]

    def _product(self, node: Any) -> None:
        weights, columns = self._weights(node)
        rows, scale = self._quantised_rows(node.input[0])
        inputs = [rows, weights, "int8.one", columns, "int8.middle"]
        found = self._add("MatMulIntegerToFloat", inputs, f"{node.output[0]}.int8", MICROSOFT)
        self._add("Mul", [found, scale], node.output[0])

    def _quantised_rows(self, name: str) -> tuple[str, str]:
        if name not in self._rows:
            self._add_constant(f"{name}.level", 1 / self._smoothing[name])
            even = self._add("Mul", [name, f"{name}.level"], f"{name}.even")
            size = self._add("Abs", [even], f"{name}.size")
            most = self._add("ReduceMax", [size], f"{name}.most", axes=[-1], keepdims=1)
            above = self._add("Max", [most, "int8.tiny"], f"{name}.above")
            scale = self._add("Mul", [above, "int8.per_step"], f"{name}.scale")
            steps = self._add("Div", [even, scale], f"{name}.steps")
            rows = self._add("QuantizeLinear", [steps, "int8.one", "int8.middle"], f"{name}.rows")
            self._rows[name] = rows, scale
        return self._rows[name]

    def _weights(self, node: Any) -> tuple[str, str]:
        """Names of a product's matrix in int8 and of its columns' scales."""
        left, right = node.input
        matrix = self._values(right) * self._smoothing[left][:, None]
        scale = np.maximum(np.abs(matrix).max(0), TINY) / STEPS
        names = f"{node.output[0]}.weights", f"{node.output[0]}.columns"
        self._add_constant(names[0], np.rint(matrix / scale).astype(np.int8))
        self._add_constant(names[1], scale.astype(np.float32))
        return names

    def _embedding(self, node: Any) -> None:
        from onnx import TensorProto

        table, found = f"{node.input[0]}.half", f"{node.output[0]}.half"
        if table not in self._constants:
            self._add_constant(table, self._values(node.input[0]).astype(np.float16))
        axis = {a.name: a.i for a in node.attribute}.get("axis", 0)
        self._add("Gather", [table, node.input[1]], found, axis=axis)
        self._add("Cast", [found], node.output[0], to=TensorProto.FLOAT)

    def _values(self, name: str) -> Array:
        from onnx import numpy_helper

        return numpy_helper.to_array(self._constants[name])

    def _add(
        self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any
    ) -> str:
        from onnx import helper

        node = helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes)
        self.nodes.append(node)
        return output

    def _add_constant(self, name: str, values: Any) -> None:
        from onnx import numpy_helper

        self._constants[name] = numpy_helper.from_array(np.asarray(values), name)


def _is_weight(constants: dict[str, Any], name: str) -> bool:
    from onnx import TensorProto

    tensor = constants.get(name)
    return (
        tensor is not None
        and tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) == 2
        and min(tensor.dims) >= LEAST_SIDE
    )
