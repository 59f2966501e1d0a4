"""Lines of a training run, one JSON object each, in `events.jsonl` beside the checkpoints; docs/protocol.md has the fields.

One process writes a folder's lines, and holds a lock while it does: a second run in the same folder is refused, and
whoever reads can tell a run at work from one that was killed. A line cut short by a power loss is cut off.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from typing import TYPE_CHECKING, Any, Protocol

from covey import wire
from covey.errors import CoveyError, DataError, UsageError, WireError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

NAME = "events.jsonl"
_LONGEST = 1000  # characters of a detail
_STEP_S = 0.2
_LAST = frozenset({"released", "failed"})


class Heard(Protocol):
    """What a message round brought (strategy.Answers)."""

    arrays: dict[str, Any]
    refused: dict[str, str]
    missing: list[str]
    seconds: float


class Events:
    """Writes a folder's lines."""

    def __init__(self, folder: Path, *, resume: bool = True) -> None:
        """Open, or make, the lines of a folder.

        Raises:
            UsageError: another run works in it, it holds a run that is not to go on, or it cannot be written.
            DataError: what is there are no lines of a run.
        """
        if not resume and (folder / "plan.json").exists():
            raise UsageError(f"{folder}: an empty folder expected, it holds a run: give --resume to go on with it")
        self.path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise UsageError(f"{folder}: a folder of its own expected, another run works in it") from error
        whole = self._whole()
        os.ftruncate(self._fd, whole)
        last = read_last(self.path)
        self.run = last.run if last is not None else secrets.token_hex(8)
        self._seq = last.seq if last is not None else 0

    def say(
        self,
        kind: Any,
        *,
        number: int = 0,
        phase: str = "",
        device: str = "",
        detail: str = "",
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """Write one line."""
        self._seq += 1
        shown = {name: float(value) for name, value in (figures or {}).items()}
        event = wire.RoundEvent(
            self.run,
            self._seq,
            round(time.time(), 3),
            kind,
            number,
            phase[:256],
            device[:_LONGEST],
            detail[:_LONGEST],
            shown,
        )
        os.write(self._fd, wire.encode(event) + b"\n")

    def answers(self, phase: str, heard: Heard, number: int = 0) -> None:
        """A line for every device that was asked."""
        for device in sorted(heard.arrays):
            self.say("answered", number=number, phase=phase, device=device)
        for device, why in sorted(heard.refused.items()):
            self.say("refused", number=number, phase=phase, device=device, detail=why)
        for device in heard.missing:
            self.say("missing", number=number, phase=phase, device=device, detail="no answer in time")

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._fd)

    def __enter__(self) -> Events:  # noqa: PYI034  # Self would do, the name says more
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CoveyError):
            self.say("failed", detail=str(error).splitlines()[0])
        elif error is not None:
            self.say("failed", detail=f"{type(error).__name__}: {error}")
        self.close()

    def _whole(self) -> int:
        """Bytes up to the end of the last whole line."""
        content = self.path.read_bytes()
        return content.rfind(b"\n") + 1


def read(path: Path) -> list[wire.RoundEvent]:
    """All whole lines.

    Raises:
        DataError: no such file, or a line that is none.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: lines of a training run expected: {error.strerror}") from error
    return [_event(line, path) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def read_last(path: Path) -> wire.RoundEvent | None:
    """The last whole line."""
    found = read(path)
    return found[-1] if found else None


def at_work(folder: Path) -> bool:
    """Whether a process writes the folder's lines now."""
    try:
        fd = os.open(folder / NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def follow(path: Path, start: int, stop: threading.Event, over: Callable[[], bool] = lambda: False) -> Iterator[bytes]:
    """Whole lines from a place in the file on, as they are written; ends when `stop` is set or it is `over`, and all is read."""
    rest = b""
    while True:
        last = stop.is_set() or over()  # asked before the file is read: what was written before it is read, too
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(start)
            content = file.read()
            start += len(content)
            *lines, rest = (rest + content).split(b"\n")
            yield from lines
        if last:
            return
        stop.wait(_STEP_S)


def end_of(path: Path) -> int:
    """Bytes in the file now; 0 without one."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def tell_failure(folder: Path, detail: str, tries_s: float = 3.0) -> None:
    """Say that a run failed, where the process that wrote its lines could not say so itself."""
    deadline = time.monotonic() + tries_s
    while True:
        try:
            last = read_last(folder / NAME)
            if last is None or last.kind in _LAST:
                return
            events = Events(folder)
        except UsageError:
            if time.monotonic() > deadline:
                return
            time.sleep(_STEP_S)
            continue
        except DataError:
            return
        events.say("failed", detail=" ".join(detail.split()))
        events.close()
        return


def copier(path: Path, start: int, write: Callable[[bytes], None], stop: threading.Event) -> Callable[[], None]:
    """Starts to hand on the lines from a place in the file on; returns what waits for the last of them."""
    import threading as threads

    def work() -> None:
        for line in follow(path, start, stop):
            write(line + b"\n")

    thread = threads.Thread(target=work, name="events", daemon=True)
    thread.start()

    def finish() -> None:
        stop.set()
        thread.join(10.0)

    return finish


def _event(line: bytes, path: Path) -> wire.RoundEvent:
    try:
        return wire.decode(wire.RoundEvent, line)
    except WireError as error:
        raise DataError(f"{path}: a line of a training run expected: {error.detail}") from error
