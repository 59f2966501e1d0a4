"""Windows of alarms wait for an operator's word: private, bounded, and nothing that is torn comes back."""

import stat

import pytest

from covey.bundle import Features, Inputs
from covey.errors import DataError
from edge.core import Kept
from edge.flash_budget import FlashBudget
from edge.rejected import MAX_WINDOWS, Rejected, unpack

INPUTS = Inputs(["a", "b"], 10.0, 3, 3, Features("lag"))


def windows(count, first=0):
    return [Kept(bytes([n % 256]) * 24, n / 10, n, 4) for n in range(first, first + count)]


def test_an_alarm_s_windows_come_back_once(tmp_path):
    store = Rejected(tmp_path / "alarmed", INPUTS)
    assert store.keep("d1-aa", windows(3))
    assert store.keep("d1-bb", windows(2, 10))
    again = Rejected(tmp_path / "alarmed", INPUTS)
    assert again.take("d1-aa") == windows(3)
    assert again.take("d1-aa") == []
    assert again.take("d1-cc") == []
    assert Rejected(tmp_path / "alarmed", INPUTS).take("d1-bb") == windows(2, 10)
    assert list((tmp_path / "alarmed").iterdir()) == []


def test_the_files_are_private_and_an_id_is_never_a_path(tmp_path):
    store = Rejected(tmp_path / "alarmed", INPUTS)
    assert store.keep("../../escaped", windows(1))
    [file] = (tmp_path / "alarmed").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["alarmed"]
    assert store.take("../../escaped") == windows(1)


def test_the_oldest_alarm_goes_first_and_the_bound_holds(tmp_path):
    store = Rejected(tmp_path / "alarmed", INPUTS, max_bytes=2000)
    for n in range(30):
        assert store.keep(f"d1-{n}", windows(10))  # 10 x 40 bytes, 16 of head, 76 of description
        assert sum(file.stat().st_size for file in (tmp_path / "alarmed").iterdir()) == store.size_bytes <= 2000
    kept = [n for n in range(30) if store.take(f"d1-{n}")]
    assert kept == [26, 27, 28, 29]
    assert not store.keep("d1-large", windows(60))


def test_one_alarm_keeps_its_first_windows_and_a_second_keep_replaces_them(tmp_path):
    store = Rejected(tmp_path / "alarmed", INPUTS)
    assert store.keep("d1-aa", windows(2))
    assert store.keep("d1-aa", windows(MAX_WINDOWS + 5))
    assert len(list((tmp_path / "alarmed").iterdir())) == 1
    assert store.take("d1-aa") == windows(MAX_WINDOWS)


def test_windows_of_other_inputs_and_damaged_ones_do_not_come_back(tmp_path):
    folder = tmp_path / "alarmed"
    Rejected(folder, INPUTS).keep("d1-aa", windows(2))
    other = Inputs(["a", "b"], 20.0, 3, 3, Features("lag"))
    assert Rejected(folder, other).take("d1-aa") == []
    for n in range(0, 160, 7):
        Rejected(folder, INPUTS).keep("d1-aa", windows(2))
        [file] = folder.iterdir()
        content = bytearray(file.read_bytes())
        content[n % len(content)] ^= 0x10
        file.write_bytes(content)
        assert Rejected(folder, INPUTS).take("d1-aa") == []


def test_a_budget_that_is_used_up_keeps_nothing(tmp_path):
    store = Rejected(tmp_path / "alarmed", INPUTS, budget=FlashBudget(100, 0.0))
    assert not store.keep("d1-aa", windows(5))
    assert store.take("d1-aa") == []


def test_what_a_killed_process_left_is_cleared(tmp_path):
    folder = tmp_path / "alarmed"
    store = Rejected(folder, INPUTS)
    store.keep("d1-aa", windows(1))
    [file] = folder.iterdir()
    (folder / f"{99:012d}-{file.name.partition('-')[2]}").write_bytes(file.read_bytes())
    (folder / ".half").write_bytes(b"x")
    assert Rejected(folder, INPUTS).take("d1-aa") == windows(1)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"COVALRM1", bytes(16), b"COVALRM1" + bytes(8)])
def test_anything_else_is_one_line(content):
    with pytest.raises(DataError, match="windows of an alarm"):
        unpack(content, "file")
