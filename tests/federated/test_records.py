"""Arrays in messages: the same bytes as Flower writes, the same arrays as it reads, the same refusals."""

from __future__ import annotations

import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from covey.bundle import MAX_BUNDLE_BYTES
from covey.errors import AggregationError, BundleError
from federated.records import arrays_of, deflated, inflated, question

KINDS = [
    np.arange(12, dtype=np.float16).reshape(3, 4),
    np.array([1.5, np.nan, np.inf], np.float32),
    np.arange(5),
    np.zeros((0, 3)),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.frombuffer(b"abc", np.uint8),
    np.array([True, False]),
    np.array(["a", "bc"]),
]


@pytest.fixture(autouse=True)
def _identity():
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def message(arrays):
    return Message(RecordDict({"arrays": ArrayRecord(arrays)}), 1, "train")


@pytest.mark.parametrize("values", KINDS, ids=lambda values: f"{values.dtype}{values.shape}")
def test_arrays_travel_as_flower_writes_and_reads_them(values):
    ours = question({"x": values}, {}).array_records["arrays"]["x"]
    flowers = Array(np.ascontiguousarray(values))
    assert (ours.dtype, ours.shape, ours.stype, ours.data) == (
        flowers.dtype,
        flowers.shape,
        flowers.stype,
        flowers.data,
    )
    for sent in (ours, Array(values)):
        (read,) = arrays_of(message({"x": sent})).values()
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values)
        assert read.flags.writeable


def npy(values, version):
    file = io.BytesIO()
    np.lib.format.write_array(file, values, version=version)
    return file.getvalue()


def test_another_version_of_the_format_is_read():
    (read,) = arrays_of(message({"x": Array("float64", (2,), "numpy.ndarray", npy(np.ones(2), (2, 0)))})).values()
    assert read.tolist() == [1.0, 1.0]


GOOD = npy(np.arange(4.0), (1, 0))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        GOOD[:-1],
        GOOD[:40],
        GOOD.replace(b"(4,)", b"(5,)"),
        GOOD.replace(b"'<f8'", b"'|O' "),
        GOOD.replace(b"'descr'", b"'dosct'"),
        b"not an array at all, but long enough to look at",
    ],
    ids=["empty", "cut magic", "cut data", "cut head", "more promised", "objects", "odd head", "text"],
)
def test_what_is_no_array_of_numbers_is_refused(data):
    with pytest.raises(AggregationError, match="plain arrays expected"):
        arrays_of(message({"x": Array("float64", (4,), "numpy.ndarray", data)}))


def test_a_bundle_in_a_message_comes_back_whole_and_nothing_else_is_taken_for_one():
    content = bytes(range(256)) * 40 + bytes(50_000)
    packed = deflated(content)
    assert inflated(packed, "candidate") == content
    assert len(packed) < len(content) / 4
    with pytest.raises(BundleError, match="candidate: a deflated bundle expected"):
        inflated(np.frombuffer(b"PK\x03\x04", np.uint8), "candidate")
    with pytest.raises(BundleError, match="candidate: a whole deflated bundle"):
        inflated(packed[:-5], "candidate")
    with pytest.raises(BundleError, match="at most 67108864 bytes"):
        inflated(deflated(bytes(MAX_BUNDLE_BYTES + 1)), "candidate")
