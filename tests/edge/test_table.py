"""CSV and NPZ tables: what is a column, what is a row, and one line for each thing that can be wrong."""

import os
from pathlib import Path

import numpy as np
import pytest

from covey.errors import DataError
from edge.sources.files import read_recording
from edge.sources.table import read_table

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("COVEY_SHARED", REPOSITORY.parent / "shared")) / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "skab").is_dir(), reason="the public data sets are not at ../shared/data (or COVEY_SHARED)"
)


def written(tmp_path, text, name="pump.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_both_delimiters_and_line_ends_read_the_same(tmp_path, delimiter, end):
    lines = ["datetime,Flow Rate,Current", "2020-03-09 10:14:33,32.0,1.5", "2020-03-09 10:14:34,31,-2e-1"]
    recording = read_table(written(tmp_path, end.join(lines).replace(",", delimiter) + end))
    assert recording.channels == ("Flow Rate", "Current")
    np.testing.assert_array_equal(recording.samples, np.array([[32, 1.5], [31, -0.2]], dtype=np.float32))
    assert recording.rate_hz == 1.0
    assert recording.segments == ((0, 2),)


def test_a_comma_inside_a_semicolon_table_is_no_delimiter(tmp_path):
    assert read_table(written(tmp_path, "speed;flow, raw;x\n1;2;3\n")).channels == ("speed", "flow, raw", "x")


def test_a_first_column_that_is_no_clock_is_kept(tmp_path):
    assert read_table(written(tmp_path, "a,b\n1,2\n")).channels == ("a", "b")


def test_a_clock_of_numbers_comes_when_asked_for(tmp_path):
    recording = read_table(written(tmp_path, "timestamp,value\n5,1\n6,2\n"), ["value", "timestamp"])
    assert recording.samples.tolist() == [[1, 5], [2, 6]]


def test_rows_are_counted_without_the_header(tmp_path):
    path = written(tmp_path, "v\n10\n11\n12\n13\n")
    assert read_table(path, rows=(1, 3)).samples[:, 0].tolist() == [11, 12]


def test_cells_outside_the_wanted_rows_and_columns_are_not_judged(tmp_path):
    path = written(tmp_path, "v,note\n1,hello\n2,\nbroken,x\n")
    assert read_table(path, ["v"], rows=(0, 2)).samples[:, 0].tolist() == [1, 2]


@pytest.mark.parametrize("cell", ["nan", "NaN", "", " ", "inf", "-inf", "1e39", "broken", "1_0"])
def test_a_cell_that_is_no_finite_number_is_told_with_line_and_column(tmp_path, cell):
    path = written(tmp_path, f"datetime;a;b\nt;1;2\nt;3;{cell}\n")
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert str(caught.value) == f"{path}: line 3, column b: a finite number expected, {cell!r} came"


WRONG = {
    "empty": ("", "header line expected"),
    "only a clock": ("timestamp\n1\n", "at least one column of numbers"),
    "only a header": ("a,b\n", "rows within 0:0 expected"),
    "a short line": ("a,b\n1,2\n3\n", "line 3: 2 cells expected, 1 came"),
    "a long line": ("a,b\n1,2,3\n", "line 2: 2 cells expected, 3 came"),
    "one name twice": ("a,a\n1,2\n", "a came twice"),
    "an open quote": ('a,b\n1,"2\n', "a CSV line expected"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_csv_is_one_line_that_names_the_file(tmp_path, name):
    text, expected = WRONG[name]
    path = written(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_csv_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n1,\xff\n")
    with pytest.raises(DataError, match="UTF-8 expected, byte 0xff came"):
        read_table(path)


def test_a_missing_column_lists_what_there_is(tmp_path):
    with pytest.raises(DataError, match="no column c; there are a, b"):
        read_table(written(tmp_path, "a,b\n1,2\n"), ["a", "c"])


@pytest.mark.parametrize("rows", [(0, 3), (2, 2), (-1, 1)])
def test_rows_out_of_range_are_refused(tmp_path, rows):
    with pytest.raises(DataError, match="rows within 0:2 expected"):
        read_table(written(tmp_path, "a\n1\n2\n"), rows=rows)


def npz(tmp_path, **arrays):
    path = tmp_path / "server.npz"
    np.savez_compressed(path, **arrays)
    return path


def test_the_array_of_an_npz_is_chosen(tmp_path):
    path = npz(tmp_path, train=np.arange(6.0).reshape(3, 2), test=-np.ones((2, 2)), label=np.zeros(2))
    assert read_recording(path).samples.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert read_recording(path, array="test").samples.tolist() == [[-1, -1], [-1, -1]]
    assert read_recording(path, ["1"], (1, 3)).samples.tolist() == [[3], [5]]


def test_the_label_of_an_npz_is_never_read(tmp_path):
    path = npz(tmp_path, train=np.ones((2, 2)), label=np.array([{"code": 1}], dtype=object))
    assert read_table(path).channels == ("0", "1")  # a label that cannot even be loaded does not matter
    with pytest.raises(DataError, match="never read"):
        read_table(path, array="label")
    with pytest.raises(DataError, match=r"no array valid; there are train$"):
        read_table(path, array="valid")


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (np.ones(3), "shape"),
        (np.array([["a"]]), "numbers"),
        (np.array([[None]], dtype=object), "plain arrays"),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), "row 1, column 1: a finite number expected, nan came"),
        (np.ones((0, 2)), "rows within 0:0"),
        (np.ones((2, 0)), "at least one column"),
    ],
)
def test_a_wrong_npz_is_one_line(tmp_path, train, expected):
    path = npz(tmp_path, train=train)
    with pytest.raises(DataError, match=expected) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04rest", b"not a zip at all"])
def test_a_damaged_npz_is_one_line(tmp_path, data):
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_member_of_an_npz_is_one_line(tmp_path):
    path = npz(tmp_path, train=np.random.default_rng(0).random((200, 3)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError):
        read_table(path)


def test_a_bare_npy_under_the_name_npz_is_one_line(tmp_path):
    path = tmp_path / "x.npz"
    with path.open("wb") as file:
        np.save(file, np.ones((2, 2)))
    with pytest.raises(DataError):
        read_table(path)


def test_a_missing_table_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        read_table(tmp_path / "nowhere.csv")


@needs_shared
def test_the_public_sets_have_the_shapes_they_promise():
    skab = read_recording(SHARED / "skab" / "valve1" / "0.csv")
    assert skab.channels[:2] == ("Accelerometer1RMS", "Accelerometer2RMS")
    assert len(skab.channels) == 10
    assert skab.samples[0, 0] == np.float32(0.0265878)
    assert read_recording(SHARED / "asd" / "omi-1.npz").samples.shape == (8640, 19)
    assert read_recording(SHARED / "asd" / "omi-1.npz", array="test").samples.shape == (4320, 19)
    assert read_recording(SHARED / "smd" / "machine-1-7.npz").samples.shape[1] == 38
    for path in sorted((SHARED / "nab").glob("*/*.csv")):
        assert read_recording(path).channels == ("value",)
