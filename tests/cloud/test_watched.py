"""A file that is changed while it is in use."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.stream import watched
from cloud.stream.watched import Watched
from covey.errors import ConfigError


def number(path: str) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: a number expected: {error}") from error


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "LOOK_S", 0.0)


def test_a_changed_file_is_read_and_a_bad_or_missing_one_leaves_what_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, refused = tmp_path / "n", []
    file.write_text("1")
    one = Watched(str(file), number, lambda: refused.append(1))
    assert one.now() == 1
    file.write_text("2")
    assert one.now() == 2
    file.write_text("x")
    assert (one.now(), one.now(), one.now()) == (2, 2, 2)
    assert len(refused) == 1  # told once
    assert "a number expected" in caplog.text
    file.unlink()
    assert (one.now(), len(refused)) == (2, 2)
    file.write_text("3")
    assert (one.now(), len(refused)) == (3, 2)


def test_a_bad_first_file_is_raised_or_stood_in_for(tmp_path: Path) -> None:
    file = tmp_path / "n"
    with pytest.raises(ConfigError, match="a number expected"):
        Watched(str(file), number)
    one = Watched(str(file), number, first=lambda: 7)
    assert one.now() == 7
    file.write_text("8")
    assert one.now() == 8


def test_without_a_file_what_holds_is_asked_once(tmp_path: Path) -> None:
    asked: list[str] = []
    one = Watched("", lambda path: asked.append(path) or len(asked))  # type: ignore[func-returns-value]
    assert [one.now() for _ in range(3)] == [1, 1, 1]
