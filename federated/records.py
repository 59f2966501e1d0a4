"""Named arrays in and out of Flower messages.

A message carries two records: `arrays` (named NumPy arrays) and
`config` (strings); an answer carries `arrays` alone. Nothing else is ever put on the wire.
"""

from __future__ import annotations

import io
import math
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from covey.bundle import MAX_BUNDLE_BYTES
from covey.errors import AggregationError, BundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from federated.gate import Arrays

ARRAYS, CONFIG = "arrays", "config"
_MAGIC = b"\x93NUMPY\x01\x00"  # NPY format 1.0
_LONGEST_HEAD = 512  # bytes; plain arrays have 128


def question(arrays: Mapping[str, NDArray[np.generic]], config: Mapping[str, str | int]) -> RecordDict:
    """Content of a message down."""
    return RecordDict({ARRAYS: _record(arrays), CONFIG: ConfigRecord(dict(config))})


def answer(arrays: Mapping[str, NDArray[np.generic]], to: Message) -> Message:
    """A message up."""
    return Message(RecordDict({ARRAYS: _record(arrays)}), reply_to=to)


def arrays_of(message: Message) -> Arrays:
    """The named arrays of a message.

    Raises:
        AggregationError: records or arrays that nobody of us wrote.
    """
    content = message.content
    try:
        return {name: _decoded(array) for name, array in content.array_records[ARRAYS].items()}
    except (KeyError, ValueError, TypeError, EOFError) as error:
        raise AggregationError(f"message: record {ARRAYS} of plain arrays expected: {error}") from error


def config_of(message: Message) -> dict[str, str | int]:
    """The strings and numbers of a message down."""
    config = message.content.config_records.get(CONFIG)
    return {name: value for name, value in (config or {}).items() if isinstance(value, (str, int))}


def as_array(content: bytes) -> NDArray[np.uint8]:
    """Bytes as an array."""
    return np.frombuffer(content, np.uint8)


def deflated(content: bytes) -> NDArray[np.uint8]:
    """A bundle for a message: models of several branches hold more zeros than not."""
    return as_array(zlib.compress(content, 6))


def inflated(values: NDArray[np.uint8], what: str) -> bytes:
    """The inverse of `deflated`.

    Raises:
        BundleError: it is not one, or more than a bundle may be.
    """
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(values.tobytes(), MAX_BUNDLE_BYTES)
    except zlib.error as error:
        raise BundleError(f"{what}: a deflated bundle expected: {error}") from error
    if not inflate.eof:
        raise BundleError(f"{what}: a whole deflated bundle of at most {MAX_BUNDLE_BYTES} bytes expected")
    return content


def _record(arrays: Mapping[str, NDArray[np.generic]]) -> ArrayRecord:
    record = ArrayRecord()  # filled by hand: its own constructor copies every array
    for name, values in sorted(arrays.items()):
        record[name] = _encoded(np.ascontiguousarray(values))
    return record


# Flower carries an array as the bytes of an NPY file. NumPy spends most of its time on writing and reading their headers,
# which are the same in every device's message: so each is written and read once, by NumPy, and remembered.


def _encoded(values: NDArray[np.generic]) -> Array:
    if values.dtype.hasobject:
        return Array(values)  # which refuses it
    name, head = _head(values.dtype.str, values.shape)
    return Array(name, values.shape, "numpy.ndarray", head + values.tobytes())


@lru_cache(maxsize=512)
def _head(dtype: str, shape: tuple[int, ...]) -> tuple[str, bytes]:
    """Name of the type, and the head of an NPY file in C order."""
    buffer = io.BytesIO()
    head = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, head)  # type: ignore[no-untyped-call]
    return str(np.dtype(dtype)), buffer.getvalue()


def _decoded(array: Array) -> NDArray[Any]:
    """`array.numpy()`.

    Raises:
        ValueError, TypeError, EOFError: it is no NPY file of plain numbers.
    """
    data = array.data
    end = 10 + int.from_bytes(data[8:10], "little")
    if type(array) is not Array or array.stype != "numpy.ndarray" or data[:8] != _MAGIC or end > _LONGEST_HEAD:
        return array.numpy()  # an engine's own, another version, or none at all, which NumPy can say best
    dtype, shape = _told(data[:end])
    if dtype is None or len(data) - end != dtype.itemsize * math.prod(shape):
        return array.numpy()
    return np.frombuffer(data, dtype, offset=end).reshape(shape).copy()


@lru_cache(maxsize=512)
def _told(head: bytes) -> tuple[np.dtype[Any] | None, tuple[int, ...]]:
    """Type and shape that a header tells; no type when only NumPy should read what follows."""
    file = io.BytesIO(head)
    np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
    return None if fortran_order or dtype.hasobject or not dtype.itemsize else dtype, shape
