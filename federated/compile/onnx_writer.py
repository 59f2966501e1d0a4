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
    from federated.compile.quantize import Affine, QuantizedGraph

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

    def node(self, op: str, inputs: list[str], output: str, **attributes: int) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes))
        return output

    def quantized(self, tensor: str, name: str, affine: Affine, output: str | None = None) -> str:
        """Round a float tensor to the values that int8 can hold: QuantizeLinear, DequantizeLinear."""
        scale = self.constant(f"{name}_scale", np.array(affine.scale, np.float32))
        zero = self.constant(f"{name}_zero", np.array(affine.zero_point, np.int8))
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


def write_onnx(qgraph: QuantizedGraph) -> bytes:
    """An int8 graph as a QDQ model: `input` (batch, D) float32 to `output` (batch, K) float32.

    Raises:
        BundleError: ONNX's own checker refuses the result.
    """
    built = _Nodes()
    tensor = built.quantized("input", "input", qgraph.input)
    last = len(qgraph.layers) - 1
    for number, layer in enumerate(qgraph.layers):
        name = f"layer{number}"
        outputs = layer.weight.shape[0]
        weight = built.node(
            "DequantizeLinear",
            [
                built.constant(f"{name}_weight_q", layer.weight),
                built.constant(f"{name}_weight_scale", layer.weight_scale),
                built.constant(f"{name}_weight_zero", np.zeros(outputs, np.int8)),
            ],
            f"{name}_weight",
            axis=0,
        )
        bias = built.node(
            "DequantizeLinear",
            [
                built.constant(f"{name}_bias_q", layer.bias),
                built.constant(f"{name}_bias_scale", layer.bias_scale),
                built.constant(f"{name}_bias_zero", np.zeros(outputs, np.int32)),
            ],
            f"{name}_bias",
            axis=0,
        )
        tensor = built.node("Gemm", [tensor, weight, bias], f"{name}_sum", transB=1)
        if layer.relu:
            tensor = built.node("Relu", [tensor], f"{name}_relu")
        tensor = built.quantized(tensor, name, layer.output, "output" if number == last else None)
    return _model(built, qgraph.layers[0].weight.shape[1], qgraph.layers[-1].weight.shape[0])


def write_onnx_float(graph: Graph) -> bytes:
    """A float graph as ONNX: `input` (batch, D) float32 to `output` (batch, K) float32.

    Raises:
        BundleError: the graph is malformed, or ONNX's own checker refuses the result.
    """
    check_graph(graph)
    built = _Nodes()
    tensor = "input"
    last = len(graph) - 1
    for number, layer in enumerate(graph):
        name = f"layer{number}"
        end = "output" if number == last else f"{name}_out"
        weight = built.constant(f"{name}_weight", layer.weight)
        bias = built.constant(f"{name}_bias", layer.bias)
        tensor = built.node("Gemm", [tensor, weight, bias], f"{name}_sum" if layer.relu else end, transB=1)
        if layer.relu:
            tensor = built.node("Relu", [tensor], end)
    return _model(built, graph[0].weight.shape[1], graph[-1].weight.shape[0])
