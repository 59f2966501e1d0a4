"""Graphs to ONNX bytes: float, or int8 as QDQ (the one form that ONNX Runtime runs with `x64quantprecision`).

Opset 17 and IR 8, so that the ONNX Runtime of JetPack 6 loads it. Float input and output, any batch. The same graph
gives the same bytes. No decision about numbers is made here: integers and scales come from `quantize.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from covey.errors import BundleError
from federated.compile.graph import Graph, check_graph

if TYPE_CHECKING:
    from federated.compile.graph import Layer
    from federated.compile.quantize import Affine, QuantizedGraph, QuantizedLayer

OPSET = 17
IR_VERSION = 8


class _Nodes:
    """Nodes and initialisers in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def constant(self, name: str, values: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes))
        return output

    def quantized(
        self, tensor: str, name: str, affine: Affine, output: str | None = None, *, like: str | None = None
    ) -> str:
        """Round a float tensor to the values that int8 can hold: QuantizeLinear, DequantizeLinear; `like` an earlier one."""
        if like is None:
            scale = self.constant(f"{name}_scale", np.array(affine.scale, np.float32))
            zero = self.constant(f"{name}_zero", np.array(affine.zero_point, np.int8))
        else:
            scale, zero = f"{like}_scale", f"{like}_zero"
        integers = self.node("QuantizeLinear", [tensor, scale, zero], f"{name}_q")
        return self.node("DequantizeLinear", [integers, scale, zero], output or f"{name}_dq")


def _model(built: _Nodes, inputs: int, outputs: int) -> bytes:
    graph = helper.make_graph(
        built.nodes,
        "covey",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", inputs])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", outputs])],
        initializer=built.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="covey")
    model.ir_version = IR_VERSION
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first_line = str(error).splitlines()[0]
        raise BundleError(f"onnx: the written model is not valid: {first_line}") from error
    return bytes(model.SerializeToString(deterministic=True))


class _Flow:
    """The tensor at hand: flat (batch, values), or (batch, channels, steps) as convolutions take and give it.

    What only moves values is put between quantisers too, or ONNX Runtime would compute it, and what follows, in floats.
    """

    def __init__(self, built: _Nodes, tensor: str) -> None:
        self.tensor = tensor
        self._built = built
        self._steps: tuple[int, int] | None = None  # channels, steps; None: flat
        self._affine: tuple[str, Affine] | None = None
        self._moves = 0

    def computed(self, tensor: str, name: str, affine: Affine | None, steps: tuple[int, int] | None) -> None:
        """The next tensor, which a layer computed."""
        self._steps, self._affine = steps, None if affine is None else (name, affine)
        self.tensor = tensor if affine is None else self._built.quantized(tensor, name, affine)

    def flat(self, output: str | None = None) -> str:
        """As (batch, values); `output` names the model's end."""
        if self._steps is not None:
            channels, steps = self._steps
            self._move("Transpose", perm=[0, 2, 1])
            self._move("Reshape", [-1, channels * steps])
            self._steps = None
        if output is not None:
            last = self._built.nodes[-1]
            last.output[0], last.name = output, f"{last.op_type}_{output}"
            self.tensor = output
        return self.tensor

    def steps(self, channels: int, steps: int) -> str:
        """As (batch, channels, steps)."""
        if self._steps != (channels, steps):
            self.flat()
            self._move("Reshape", [-1, steps, channels])
            self._move("Transpose", perm=[0, 2, 1])
            self._steps = (channels, steps)
        return self.tensor

    def _move(self, op: str, shape: list[int] | None = None, **attributes: Any) -> None:
        self._moves += 1
        name = f"move{self._moves}"
        inputs = [self.tensor]
        if shape is not None:
            inputs.append(self._built.constant(f"{name}_shape", np.array(shape, np.int64)))
        self.tensor = self._built.node(op, inputs, name, **attributes)
        if self._affine is not None:
            like, affine = self._affine
            self.tensor = self._built.quantized(self.tensor, name, affine, like=like)


def _layer(built: _Nodes, flow: _Flow, name: str, layer: Layer | QuantizedLayer, weight: str, bias: str) -> str:
    """The nodes of one layer up to its activation."""
    if layer.weight.ndim == 2:
        tensor = built.node("Gemm", [flow.flat(), weight, bias], f"{name}_sum", transB=1)
    else:
        _, kernel, channels = layer.weight.shape
        inputs = [flow.steps(channels, layer.steps), weight, bias]
        tensor = built.node("Conv", inputs, f"{name}_sum", kernel_shape=[kernel], pads=[kernel // 2] * 2)
    return built.node("Relu", [tensor], f"{name}_relu") if layer.relu else tensor


def _weight(layer: Layer | QuantizedLayer) -> Any:
    """As ONNX orders it: (out, in), or (out, in, kernel)."""
    return layer.weight if layer.weight.ndim == 2 else layer.weight.transpose(0, 2, 1)


def _steps(layer: Layer | QuantizedLayer) -> tuple[int, int] | None:
    return None if layer.weight.ndim == 2 else (layer.weight.shape[0], layer.steps)


def write_onnx(qgraph: QuantizedGraph) -> bytes:
    """An int8 graph as a QDQ model: `input` (batch, D) float32 to `output` (batch, K) float32.

    Raises:
        BundleError: ONNX's own checker refuses the result.
    """
    built = _Nodes()
    flow = _Flow(built, "input")
    flow.computed("input", "input", qgraph.input, None)
    for number, layer in enumerate(qgraph.layers):
        name = f"layer{number}"
        parts = {
            "weight": (_weight(layer), layer.weight_scale, np.int8),
            "bias": (layer.bias, layer.bias_scale, np.int32),
        }
        weight, bias = (
            built.node(
                "DequantizeLinear",
                [
                    built.constant(f"{name}_{part}_q", values),
                    built.constant(f"{name}_{part}_scale", scale),
                    built.constant(f"{name}_{part}_zero", np.zeros(len(scale), kind)),
                ],
                f"{name}_{part}",
                axis=0,
            )
            for part, (values, scale, kind) in parts.items()
        )
        flow.computed(_layer(built, flow, name, layer, weight, bias), name, layer.output, _steps(layer))
    flow.flat("output")
    return _model(built, qgraph.layers[0].inputs, qgraph.layers[-1].outputs)


def write_onnx_float(graph: Graph) -> bytes:
    """A float graph as ONNX: `input` (batch, D) float32 to `output` (batch, K) float32.

    Raises:
        BundleError: the graph is malformed, or ONNX's own checker refuses the result.
    """
    check_graph(graph)
    built = _Nodes()
    flow = _Flow(built, "input")
    for number, layer in enumerate(graph):
        name = f"layer{number}"
        weight = built.constant(f"{name}_weight", _weight(layer))
        bias = built.constant(f"{name}_bias", layer.bias)
        flow.computed(_layer(built, flow, name, layer, weight, bias), name, None, _steps(layer))
    flow.flat("output")
    return _model(built, graph[0].inputs, graph[-1].outputs)
