"""Named arrays in and out of Flower messages.

A message carries two records: `arrays` (named NumPy arrays) and
`config` (strings); an answer carries `arrays` alone. Nothing else is ever put on the wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from covey.errors import AggregationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from federated.gate import Arrays

ARRAYS, CONFIG = "arrays", "config"


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
        return {name: array.numpy() for name, array in content.array_records[ARRAYS].items()}
    except (KeyError, ValueError, TypeError, EOFError) as error:
        raise AggregationError(f"message: record {ARRAYS} of plain arrays expected: {error}") from error


def config_of(message: Message) -> dict[str, str | int]:
    """The strings and numbers of a message down."""
    config = message.content.config_records.get(CONFIG)
    return {name: value for name, value in (config or {}).items() if isinstance(value, (str, int))}


def as_array(content: bytes) -> NDArray[np.uint8]:
    """Bytes as an array."""
    return np.frombuffer(content, np.uint8)


def _record(arrays: Mapping[str, NDArray[np.generic]]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(values)) for name, values in sorted(arrays.items())})
