"""Names of processes: one each, the same again after a kill."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cloud.stream.instance import claim, name
from covey.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

CODE = """
import sys, time
from pathlib import Path
from cloud.stream.instance import claim
with claim("stage", Path(sys.argv[1])) as name:
    print(name, flush=True)
    sys.stdin.read()
"""


def claimed(folder: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_two_processes_have_two_names_and_a_killed_ones_name_is_given_again(tmp_path: Path) -> None:
    one, first = claimed(tmp_path / "locks")
    two, second = claimed(tmp_path / "locks")
    three = None
    try:
        assert first != second
        one.kill()
        one.wait()
        three, third = claimed(tmp_path / "locks")
        assert third == first
    finally:
        for process in (one, two, three):
            if process is not None:
                process.kill()
                process.communicate()


def test_other_kinds_of_processes_count_for_themselves(tmp_path: Path) -> None:
    with claim("a", tmp_path / "locks") as one, claim("b", tmp_path / "locks") as other:
        assert one == other


def test_a_folder_that_is_no_folder_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "locks").symlink_to(tmp_path / "real")
    with pytest.raises(UsageError, match="instance"), claim("a", tmp_path / "locks"):
        pass


def test_a_name_is_short_and_plain() -> None:
    assert name("edge box/7", 3) == "edge-box-7-3"
    assert len(name("h" * 200, 255)) <= 64
