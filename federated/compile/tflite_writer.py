"""Graphs to TFLite flatbuffer bytes, float or int8, with nothing but the `flatbuffers` package.

LiteRT and tflite-runtime 2.14 both run the result: every operator is of an old version, and operator codes are also
written where old readers look. Float input and output, any batch. The same graph gives the same bytes. No decision
about numbers is made here: integers and scales come from `quantize.py`.

Numbers of tables, fields and enumerators are those of the public schema (tensorflow/lite/schema/schema.fbs, version
3); field numbers stand beside each use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np

from federated.compile.graph import Graph, check_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from federated.compile.graph import Layer
    from federated.compile.quantize import Affine, QuantizedGraph, QuantizedLayer

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
ALIGNMENT = 16  # of buffer data, force_align in the schema

# schema.fbs: enum TensorType
_TENSOR_TYPE = {np.dtype(np.float32): 0, np.dtype(np.int32): 2, np.dtype(np.int8): 9}
_FLOAT32, _INT8 = np.dtype(np.float32), np.dtype(np.int8)
# schema.fbs: enum BuiltinOperator
_CONV_2D, _DEQUANTIZE, _FULLY_CONNECTED, _RESHAPE, _QUANTIZE = 3, 6, 9, 22, 114
# schema.fbs: union BuiltinOptions
_OPTIONS = {_CONV_2D: 1, _FULLY_CONNECTED: 8, _RESHAPE: 17, _DEQUANTIZE: 38, _QUANTIZE: 89}
_RELU = 1  # schema.fbs: enum ActivationFunctionType


class _Model:
    """Writes one model: tensors and operators are added in order, `finish` closes the file."""

    def __init__(self, versions: dict[int, int]) -> None:
        self.builder = flatbuffers.Builder(1 << 16)
        self.codes = list(versions)
        self.versions = versions
        self.buffers = [self._buffer(b"")]  # buffer 0 is empty by convention: tensors without data use it
        self.tensors: list[int] = []
        self.operators: list[int] = []

    def _bytes(self, data: bytes) -> int:
        b = self.builder
        b.StartVector(1, len(data), ALIGNMENT)
        b.head = b.Head() - len(data)
        b.Bytes[b.Head() : b.Head() + len(data)] = data
        return int(b.EndVector())

    def _buffer(self, data: bytes) -> int:
        b = self.builder
        content = self._bytes(data) if data else None
        b.StartObject(3)
        if content is not None:
            b.PrependUOffsetTRelativeSlot(0, content, 0)  # data
        return int(b.EndObject())

    def _vector(self, values: Any, dtype: Any) -> int:
        return int(self.builder.CreateNumpyVector(np.asarray(values, dtype)))

    def _offsets(self, offsets: Sequence[int]) -> int:
        b = self.builder
        b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            b.PrependUOffsetTRelative(offset)
        return int(b.EndVector())

    def _quantization(self, scales: Any, zero_points: Any) -> int:
        b = self.builder
        scale = self._vector(scales, np.float32)
        zero_point = self._vector(zero_points, np.int64)
        b.StartObject(7)
        b.PrependUOffsetTRelativeSlot(2, scale, 0)  # scale
        b.PrependUOffsetTRelativeSlot(3, zero_point, 0)  # zero_point
        return int(b.EndObject())  # field 6, quantized_dimension, stays at its default 0: output channels

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: Any, *, buffer: int = 0, **extra: int) -> int:
        b = self.builder
        text = b.CreateString(name)
        dimensions = self._vector(shape, np.int32)
        signature = None if buffer else self._vector((-1, *shape[1:]), np.int32)  # constants have no batch
        b.StartObject(11)
        b.PrependUOffsetTRelativeSlot(0, dimensions, 0)  # shape
        b.PrependInt8Slot(1, _TENSOR_TYPE[np.dtype(dtype)], 0)  # type
        b.PrependUint32Slot(2, buffer, 0)  # buffer
        b.PrependUOffsetTRelativeSlot(3, text, 0)  # name
        if "quantization" in extra:
            b.PrependUOffsetTRelativeSlot(4, extra["quantization"], 0)  # quantization
        if signature is not None:
            b.PrependUOffsetTRelativeSlot(7, signature, 0)  # shape_signature
        self.tensors.append(int(b.EndObject()))
        return len(self.tensors) - 1

    def activation(self, name: str, shape: tuple[int, ...], affine: Affine | None = None) -> int:
        """A (batch, *shape) tensor: float32, or int8 as `affine` says."""
        if affine is None:
            return self._tensor(name, (1, *shape), _FLOAT32)
        quantization = self._quantization([affine.scale], [affine.zero_point])
        return self._tensor(name, (1, *shape), _INT8, quantization=quantization)

    def constant(self, name: str, values: Any, scales: Any = None) -> int:
        """A tensor with data; with scales (out,) it is quantised symmetrically per output channel."""
        little_endian = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        self.buffers.append(self._buffer(little_endian.tobytes()))
        extra = {} if scales is None else {"quantization": self._quantization(scales, np.zeros(len(scales)))}
        return self._tensor(name, values.shape, values.dtype, buffer=len(self.buffers) - 1, **extra)

    def operator(self, code: int, inputs: list[int], output: int, *, relu: bool = False) -> None:
        b = self.builder
        takes, gives = self._vector(inputs, np.int32), self._vector([output], np.int32)
        if code == _FULLY_CONNECTED:
            b.StartObject(6)
            b.PrependInt8Slot(0, _RELU if relu else 0, 0)  # fused_activation_function
        elif code == _CONV_2D:
            b.StartObject(6)  # field 0, padding, stays at its default SAME; 4 and 5, dilation, at 1
            b.PrependInt32Slot(1, 1, 0)  # stride_w
            b.PrependInt32Slot(2, 1, 0)  # stride_h
            b.PrependInt8Slot(3, _RELU if relu else 0, 0)  # fused_activation_function
        else:
            b.StartObject(0)
        options = b.EndObject()
        b.StartObject(14)
        b.PrependUint32Slot(0, self.codes.index(code), 0)  # opcode_index
        b.PrependUOffsetTRelativeSlot(1, takes, 0)  # inputs
        b.PrependUOffsetTRelativeSlot(2, gives, 0)  # outputs
        b.PrependUint8Slot(3, _OPTIONS[code], 0)  # builtin_options_type
        b.PrependUOffsetTRelativeSlot(4, options, 0)  # builtin_options
        self.operators.append(int(b.EndObject()))

    def _operator_code(self, code: int) -> int:
        b = self.builder
        b.StartObject(4)
        b.PrependInt8Slot(0, code, 0)  # deprecated_builtin_code: readers before 2.4 look here; all of ours fit
        b.PrependInt32Slot(2, self.versions[code], 1)  # version
        b.PrependInt32Slot(3, code, 0)  # builtin_code
        return int(b.EndObject())

    def finish(self, first: int, last: int) -> bytes:
        """Close the file; `first` and `last` are the model's input and output tensor."""
        b = self.builder
        tensors, operators = self._offsets(self.tensors), self._offsets(self.operators)
        inputs, outputs = self._vector([first], np.int32), self._vector([last], np.int32)
        name = b.CreateString("main")
        b.StartObject(6)
        b.PrependUOffsetTRelativeSlot(0, tensors, 0)  # tensors
        b.PrependUOffsetTRelativeSlot(1, inputs, 0)  # inputs
        b.PrependUOffsetTRelativeSlot(2, outputs, 0)  # outputs
        b.PrependUOffsetTRelativeSlot(3, operators, 0)  # operators
        b.PrependUOffsetTRelativeSlot(4, name, 0)  # name
        subgraphs = self._offsets([int(b.EndObject())])
        codes = self._offsets([self._operator_code(code) for code in self.codes])
        buffers = self._offsets(self.buffers)
        description = b.CreateString("covey")
        b.StartObject(10)
        b.PrependUint32Slot(0, SCHEMA_VERSION, 0)  # version
        b.PrependUOffsetTRelativeSlot(1, codes, 0)  # operator_codes
        b.PrependUOffsetTRelativeSlot(2, subgraphs, 0)  # subgraphs
        b.PrependUOffsetTRelativeSlot(3, description, 0)  # description
        b.PrependUOffsetTRelativeSlot(4, buffers, 0)  # buffers
        b.Finish(b.EndObject(), file_identifier=FILE_IDENTIFIER)
        return bytes(b.Output())


class _Flow:
    """The tensor at hand: flat (batch, values), or (batch, 1, steps, channels) as convolutions take and give it.

    Both hold the same values in the same order, so that a change of shape moves none.
    """

    def __init__(self, model: _Model, tensor: int, shape: tuple[int, ...], affine: Affine | None) -> None:
        self.tensor, self.shape = tensor, shape
        self._model, self._affine = model, affine
        self._moves = 0

    def shaped(self, shape: tuple[int, ...], name: str | None = None) -> int:
        """The tensor at hand as (batch, *shape)."""
        if self.shape != shape:
            self._moves += 1
            name = name or f"move{self._moves}"
            target = self._model.constant(f"{name}_shape", np.array((-1, *shape), np.int32))
            output = self._model.activation(name, shape, self._affine)
            self._model.operator(_RESHAPE, [self.tensor, target], output)
            self.tensor, self.shape = output, shape
        return self.tensor

    def layer(self, name: str, layer: Layer | QuantizedLayer, constants: list[int], affine: Affine | None) -> None:
        """One layer's operators; `constants` are its weight and bias."""
        code = _FULLY_CONNECTED
        takes: tuple[int, ...] = (layer.inputs,)
        gives: tuple[int, ...] = (layer.outputs,)
        if layer.weight.ndim == 3:
            outputs, _, inputs = layer.weight.shape
            code, takes, gives = _CONV_2D, (1, layer.steps, inputs), (1, layer.steps, outputs)
        tensor = self.shaped(takes)
        output = self._model.activation(name, gives, affine)
        self._model.operator(code, [tensor, *constants], output, relu=layer.relu)
        self.tensor, self.shape, self._affine = output, gives, affine


def _weight(layer: Layer | QuantizedLayer) -> Any:
    """As TFLite orders it: (out, in), or (out, 1, kernel, in)."""
    return layer.weight if layer.weight.ndim == 2 else layer.weight[:, None]


def _versions(layers: Sequence[Layer | QuantizedLayer], fully_connected: int, conv: int) -> dict[int, int]:
    """Operators of the layers; a model must not list others (readers would look for their kernels)."""
    dense = {_FULLY_CONNECTED: fully_connected} if any(layer.weight.ndim == 2 for layer in layers) else {}
    return dense | ({_CONV_2D: conv, _RESHAPE: 1} if any(layer.weight.ndim == 3 for layer in layers) else {})


def write_tflite(qgraph: QuantizedGraph) -> bytes:
    """An int8 graph as TFLite: `input` (batch, D) float32 to `output` (batch, K) float32."""
    # Versions: the first that take int8 (tensorflow/lite/tools/versioning/op_version.cc).
    model = _Model({_QUANTIZE: 1, **_versions(qgraph.layers, 4, 3), _DEQUANTIZE: 2})
    shape = (qgraph.layers[0].inputs,)
    first = model.activation("input", shape)
    tensor = model.activation("input_q", shape, qgraph.input)
    model.operator(_QUANTIZE, [first], tensor)
    flow = _Flow(model, tensor, shape, qgraph.input)
    for number, layer in enumerate(qgraph.layers):
        name = f"layer{number}"
        weight = model.constant(f"{name}_weight", _weight(layer), layer.weight_scale)
        bias = model.constant(f"{name}_bias", layer.bias, layer.bias_scale)
        flow.layer(name, layer, [weight, bias], layer.output)
    shape = (qgraph.layers[-1].outputs,)
    tensor = flow.shaped(shape)
    last = model.activation("output", shape)
    model.operator(_DEQUANTIZE, [tensor], last)
    return model.finish(first, last)


def write_tflite_float(graph: Graph) -> bytes:
    """A float graph as TFLite: `input` (batch, D) float32 to `output` (batch, K) float32.

    Raises:
        BundleError: the graph is malformed.
    """
    check_graph(graph)
    model = _Model(_versions(graph, 1, 1))
    shape = (graph[0].inputs,)
    first = model.activation("input", shape)
    flow = _Flow(model, first, shape, None)
    for number, layer in enumerate(graph):
        name = f"layer{number}"
        constants = [model.constant(f"{name}_weight", _weight(layer)), model.constant(f"{name}_bias", layer.bias)]
        flow.layer("output" if number == len(graph) - 1 and layer.weight.ndim == 2 else name, layer, constants, None)
    return model.finish(first, flow.shaped((graph[-1].outputs,), "output"))
