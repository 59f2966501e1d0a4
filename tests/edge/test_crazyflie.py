"""Crazyflie logs: what is read, where it is split, and one line for each thing that can be wrong."""

import csv
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from covey.errors import DataError
from edge.sources.crazyflie import read_crazyflie
from edge.sources.files import read_recording

REPOSITORY = Path(__file__).resolve().parents[2]
CRAZYPAD = Path(os.environ.get("COVEY_SHARED", REPOSITORY.parent / "shared")) / "data" / "crazypad"
needs_crazypad = pytest.mark.skipif(
    not (CRAZYPAD / "manifest.csv").is_file(), reason="the CrazyPAD logs are not at ../shared/data (or COVEY_SHARED)"
)

FIXED = (7, "fixedFrequency", (("motor.m1", "I"), ("pm.vbatMV", "H"), ("acc.z", "f")))


def header(version, events):
    out = struct.pack("<BHH", 0xBC, version, len(events))
    for number, name, variables in events:
        out += struct.pack("<H", number) + name.encode() + b"\0" + struct.pack("<H", len(variables))
        for variable, code in variables:
            out += f"{variable}({code})".encode() + b"\0"
    return out


def record(version, event, time, *values):
    number, _, variables = event
    codes = "".join(code for _, code in variables)
    return struct.pack("<H" + {1: "I", 2: "Q"}[version] + codes, number, time, *values)


def sealed(body):
    return body + struct.pack("<I", zlib.crc32(body))


def log(tmp_path, times, version=2, values=None, events=(FIXED,)):
    values = values or [(10 * i, 3000 + i, 0.5 * i) for i in range(len(times))]
    body = header(version, events) + b"".join(record(version, FIXED, t, *v) for t, v in zip(times, values, strict=True))
    path = tmp_path / "E1_log00"
    path.write_bytes(sealed(body))
    return path


def test_version_2_counts_microseconds(tmp_path):
    recording = read_crazyflie(log(tmp_path, [0, 10_000, 20_000, 30_000]))
    assert recording.channels == ("motor.m1", "pm.vbatMV", "acc.z")
    assert recording.rate_hz == pytest.approx(100.0)
    assert recording.samples.dtype == np.float32
    assert recording.samples.tolist() == [[0, 3000, 0], [10, 3001, 0.5], [20, 3002, 1], [30, 3003, 1.5]]
    assert recording.segments == ((0, 4),)


def test_version_1_counts_milliseconds(tmp_path):
    recording = read_crazyflie(log(tmp_path, [5, 25, 45], version=1))
    assert recording.rate_hz == pytest.approx(50.0)
    assert recording.samples[2].tolist() == [20, 3002, 1]


def test_columns_come_in_the_order_asked_for(tmp_path):
    recording = read_crazyflie(log(tmp_path, [0, 10_000]), ["acc.z", "motor.m1"])
    assert recording.channels == ("acc.z", "motor.m1")
    assert recording.samples.tolist() == [[0, 0], [0.5, 10]]


def test_a_step_of_more_than_one_and_a_half_periods_splits(tmp_path):
    # periods of 10 ms: 14 ms is jitter, 16 ms is a gap
    recording = read_crazyflie(log(tmp_path, [0, 10_000, 24_000, 34_000, 50_000, 60_000, 70_000]))
    assert recording.segments == ((0, 4), (4, 7))


def test_a_clock_that_runs_back_splits(tmp_path):
    recording = read_crazyflie(log(tmp_path, [20_000, 30_000, 40_000, 0, 10_000, 20_000]))
    assert recording.segments == ((0, 3), (3, 6))


def test_a_row_that_is_not_finite_is_left_out_and_splits(tmp_path):
    values = [(1, 1, 0.0), (2, 2, float("nan")), (3, 3, 1.0), (4, 4, 2.0)]
    recording = read_crazyflie(log(tmp_path, [0, 10_000, 20_000, 30_000], values=values))
    assert recording.samples[:, 0].tolist() == [1, 3, 4]
    assert recording.segments == ((0, 1), (1, 3))


def test_other_events_between_do_not_disturb_and_can_be_asked_for(tmp_path):
    marker = (3, "markerMode", (("mode", "B"),))
    body = header(2, (marker, FIXED))
    for i in range(4):
        body += record(2, FIXED, 10_000 * i, i, 3000, 0.25)
        body += record(2, marker, 10_000 * i + 3, 40 + i)
    path = tmp_path / "log"
    path.write_bytes(sealed(body))
    assert read_crazyflie(path).samples[:, 0].tolist() == [0, 1, 2, 3]
    assert read_crazyflie(path, ["mode"]).samples[:, 0].tolist() == [40, 41, 42, 43]


GOOD = header(2, (FIXED,)) + b"".join(record(2, FIXED, 10_000 * i, i, 3000, 0.5) for i in range(5))
WHOLE = sealed(GOOD)
DAMAGED = {
    "empty": (b"", "truncated"),
    "other magic": (b"\xbd" + WHOLE[1:], "begins with 0xBC, 0xBD came"),
    "version 3": (sealed(WHOLE[:1] + b"\x03\x00" + WHOLE[3:-4]), "version 1 or 2 expected, 3 came"),
    "cut in the header": (WHOLE[:20], "complete header expected, the file ends after 20 bytes"),
    "cut after the header": (header(2, (FIXED,)), "truncated"),
    "cut in a record": (WHOLE[:-9], "ends inside a record"),
    "a flipped bit": (WHOLE[:-10] + bytes([WHOLE[-10] ^ 1]) + WHOLE[-9:], "CRC-32"),
    "unknown struct code": (sealed(header(2, ((7, "fixedFrequency", (("motor.m1", "Z"),)),))), "motor.m1(Z) came"),
    "a variable without a code": (
        sealed(struct.pack("<BHHH", 0xBC, 2, 1, 7) + b"fixedFrequency\0" + struct.pack("<H", 1) + b"motor\0"),
        "name(T)",
    ),
    "an undeclared event": (sealed(GOOD + struct.pack("<HQ", 99, 0)), "event id 99"),
    "half a record, right CRC": (sealed(GOOD[:-3]), "ends inside a record"),
    "no event types": (sealed(struct.pack("<BHH", 0xBC, 2, 0)), "at least 2 records"),
    "one record": (sealed(header(2, (FIXED,)) + record(2, FIXED, 0, 1, 1, 1.0)), "at least 2 records"),
    "time stands still": (
        sealed(header(2, (FIXED,)) + b"".join(record(2, FIXED, 5, 1, 1, 1.0) for _ in range(3))),
        "growing time stamps",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_line_that_names_the_file(tmp_path, name):
    data, expected = DAMAGED[name]
    path = tmp_path / "E1_log07"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_crazyflie(path)
    message = str(caught.value)
    assert str(path) in message
    assert expected in message
    assert "\n" not in message


def test_every_single_truncation_is_refused(tmp_path):
    path = tmp_path / "log"
    for size in range(len(WHOLE)):
        path.write_bytes(WHOLE[:size])
        with pytest.raises(DataError):
            read_crazyflie(path)


def test_a_missing_column_lists_what_there_is(tmp_path):
    with pytest.raises(DataError, match=r"no column motor\.m9; there are motor\.m1, pm\.vbatMV, acc\.z"):
        read_crazyflie(log(tmp_path, [0, 10_000]), ["motor.m1", "motor.m9"])


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        read_crazyflie(tmp_path / "nowhere")


def test_rows_of_a_log_keep_its_gaps(tmp_path):
    path = log(tmp_path, [0, 10_000, 20_000, 50_000, 60_000, 70_000])
    recording = read_recording(path, ["motor.m1"], rows=(1, 5))
    assert recording.samples[:, 0].tolist() == [10, 20, 30, 40]
    assert recording.segments == ((0, 2), (2, 4))
    with pytest.raises(DataError, match="rows within 0:6 expected, 2:9 came"):
        read_recording(path, rows=(2, 9))


@pytest.mark.parametrize(("data", "got"), [(b"", "an empty file"), (b"{}", "first byte 0x7B")])
def test_a_file_that_no_reader_knows_is_told(tmp_path, data, got):
    path = tmp_path / "thing"
    path.write_bytes(data)
    with pytest.raises(DataError, match=got):
        read_recording(path)


@needs_crazypad
def test_every_real_log_is_read_as_the_data_set_describes_it():
    with (CRAZYPAD / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 46
    for row in rows:
        recording = read_recording(CRAZYPAD / row["file"])
        motors = recording.samples[:, :4]
        assert recording.channels[:4] == ("motor.m1", "motor.m2", "motor.m3", "motor.m4")
        assert 100 < recording.rate_hz < 102  # the drones' clocks run about 1 % fast
        assert 25 < len(recording.samples) / recording.rate_hz < 27
        assert motors.min() == 0
        assert 40_000 < motors.max() <= 65_535
        assert recording.segments[-1][1] == len(recording.samples)
