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

    from federated.compile.quantize import Affine, QuantizedGraph

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
ALIGNMENT = 16  # of buffer data, force_align in the schema

# schema.fbs: enum TensorType
_TENSOR_TYPE = {np.dtype(np.float32): 0, np.dtype(np.int32): 2, np.dtype(np.int8): 9}
_FLOAT32, _INT8 = np.dtype(np.float32), np.dtype(np.int8)
# schema.fbs: enum BuiltinOperator
_DEQUANTIZE, _FULLY_CONNECTED, _QUANTIZE = 6, 9, 114
# schema.fbs: union BuiltinOptions
_OPTIONS = {_FULLY_CONNECTED: 8, _DEQUANTIZE: 38, _QUANTIZE: 89}
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

    def activation(self, name: str, width: int, affine: Affine | None = None) -> int:
        """A (batch, width) tensor: float32, or int8 as `affine` says."""
        if affine is None:
            return self._tensor(name, (1, width), _FLOAT32)
        return self._tensor(
            name, (1, width), _INT8, quantization=self._quantization([affine.scale], [affine.zero_point])
        )

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


def write_tflite(qgraph: QuantizedGraph) -> bytes:
    """An int8 graph as TFLite: `input` (batch, D) float32 to `output` (batch, K) float32."""
    # Versions: the first that take int8 (tensorflow/lite/tools/versioning/op_version.cc).
    model = _Model({_QUANTIZE: 1, _FULLY_CONNECTED: 4, _DEQUANTIZE: 2})
    width = qgraph.layers[0].weight.shape[1]
    first = model.activation("input", width)
    tensor = model.activation("input_q", width, qgraph.input)
    model.operator(_QUANTIZE, [first], tensor)
    for number, layer in enumerate(qgraph.layers):
        width = layer.weight.shape[0]
        weight = model.constant(f"layer{number}_weight", layer.weight, layer.weight_scale)
        bias = model.constant(f"layer{number}_bias", layer.bias, layer.bias_scale)
        output = model.activation(f"layer{number}", width, layer.output)
        model.operator(_FULLY_CONNECTED, [tensor, weight, bias], output, relu=layer.relu)
        tensor = output
    last = model.activation("output", width)
    model.operator(_DEQUANTIZE, [tensor], last)
    return model.finish(first, last)


def write_tflite_float(graph: Graph) -> bytes:
    """A float graph as TFLite: `input` (batch, D) float32 to `output` (batch, K) float32.

    Raises:
        BundleError: the graph is malformed.
    """
    check_graph(graph)
    model = _Model({_FULLY_CONNECTED: 1})
    first = tensor = model.activation("input", graph[0].weight.shape[1])
    for number, layer in enumerate(graph):
        weight = model.constant(f"layer{number}_weight", layer.weight)
        bias = model.constant(f"layer{number}_bias", layer.bias)
        name = "output" if number == len(graph) - 1 else f"layer{number}"
        output = model.activation(name, layer.weight.shape[0])
        model.operator(_FULLY_CONNECTED, [tensor, weight, bias], output, relu=layer.relu)
        tensor = output
    return model.finish(first, tensor)
