"""Windows of alarms, kept for a while: an operator who calls an alarm false gives them back to the ring.

One private file (0600) for each alarm in a folder of bounded size; the oldest alarm goes first. A file is written whole and
carries a CRC, so a torn or damaged one is as good as none. Like the ring, nobody but the device's own agent opens it, and
nothing of it leaves the device. It refuses to judge: what comes out was an alarm, until somebody says that it was none.
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
import zlib
from typing import TYPE_CHECKING

from covey.errors import DataError
from covey.runtime import write_whole
from edge.core import Kept

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from covey.bundle import Inputs
    from edge.flash_budget import FlashBudget

MAGIC = b"COVALRM1"
MAX_WINDOWS = 256  # of one alarm: the first ones, which raised it
_PREFIX = struct.Struct("<8sII")  # magic, length of the description, CRC-32 of all that follows
_HEAD = struct.Struct("<dII")  # start_s, index, flight; then T * C float32


class Rejected:
    """The alarms of one device."""

    def __init__(
        self, folder: Path, inputs: Inputs, max_bytes: int = 4 * 1024 * 1024, budget: FlashBudget | None = None
    ) -> None:
        """Open the folder, made if need be (0700).

        Args:
            folder: of the files.
            inputs: what the model looks at; windows of other inputs are not given back.
            max_bytes: of all files together.
            budget: what may be written to flash in a day; shared with the ring.

        Raises:
            DataError: it cannot be made or read.
        """
        self._folder = folder
        self._max_bytes = max_bytes
        self._budget = budget
        self._about = {"channels": list(inputs.channels), "rate_hz": inputs.rate_hz, "window": inputs.record_rows}
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in folder.glob(".*"):  # write_whole's, of a process that was killed
                left.unlink()
            self._files = self._read()
        except OSError as error:
            raise _told(folder, error) from error

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self._files.values())

    def keep(self, alarm_id: str, windows: Sequence[Kept]) -> bool:
        """Keep an alarm's windows, in order, over what is there of it; False where there is no room or budget for them.

        Raises:
            DataError: the file cannot be written.
        """
        content = pack(alarm_id, self._about, windows[:MAX_WINDOWS])
        if not windows or len(content) > self._max_bytes:
            return False
        if self._budget is not None and not self._budget.take(len(content), time.monotonic()):
            return False
        key = _key(alarm_id)
        number = 1 + max((number for number, _ in self._files.values()), default=0)
        try:
            self._forget(key)
            while self._files and self.size_bytes + len(content) > self._max_bytes:
                self._forget(min(self._files, key=lambda one: self._files[one][0]))
            write_whole(self._folder / f"{number:012d}-{key}", content, 0o600)
        except OSError as error:
            raise _told(self._folder, error) from error
        self._files[key] = number, len(content)
        return True

    def take(self, alarm_id: str) -> list[Kept]:
        """An alarm's windows, which are forgotten here; none of an alarm that is unknown, damaged or of other inputs.

        Raises:
            DataError: the file cannot be read or removed.
        """
        key = _key(alarm_id)
        if key not in self._files:
            return []
        try:
            content = (self._folder / f"{self._files[key][0]:012d}-{key}").read_bytes()
            self._forget(key)
        except FileNotFoundError:
            del self._files[key]
            return []
        except OSError as error:
            raise _told(self._folder, error) from error
        try:
            found, about, windows = unpack(content, str(self._folder))
        except DataError:
            return []
        return windows if found == alarm_id and about == self._about else []

    def _forget(self, key: str) -> None:
        if key in self._files:
            (self._folder / f"{self._files[key][0]:012d}-{key}").unlink(missing_ok=True)
            del self._files[key]

    def _read(self) -> dict[str, tuple[int, int]]:
        """Key -> (number, size); strange files are left alone."""
        out: dict[str, tuple[int, int]] = {}
        for path in sorted(self._folder.iterdir()):
            number, _, key = path.name.partition("-")
            if len(key) == 32 and number.isascii() and number.isdigit():
                if key in out:  # of a process killed between a new file and the old one's end
                    (self._folder / f"{out[key][0]:012d}-{key}").unlink(missing_ok=True)
                out[key] = int(number), path.stat().st_size
        return out


def pack(alarm_id: str, about: dict[str, object], windows: Sequence[Kept]) -> bytes:
    """A file's bytes; the inverse of `unpack`."""
    text = json.dumps({"alarm_id": alarm_id, **about}).encode()
    body = text + b"".join(_HEAD.pack(one.start_s, one.index, one.flight) + one.samples for one in windows)
    return _PREFIX.pack(MAGIC, len(text), zlib.crc32(body)) + body


def unpack(content: bytes, name: str) -> tuple[str, dict[str, object], list[Kept]]:
    """(alarm id, what the windows are of, the windows).

    Raises:
        DataError: not such a file, or damaged; `name` is for the message.
    """
    try:
        magic, length, crc = _PREFIX.unpack_from(content)
        body = content[_PREFIX.size :]
        if magic != MAGIC or zlib.crc32(body) != crc:
            raise DataError(f"{name}: windows of an alarm ({MAGIC.decode()}) expected, others or damaged ones came")
        about = json.loads(body[:length])
        alarm_id = about.pop("alarm_id")
        size = _HEAD.size + 4 * about["window"] * len(about["channels"])
        records = body[length:]
        if size <= _HEAD.size or len(records) % size:
            raise DataError(f"{name}: whole windows of {size} bytes expected, {len(records)} bytes came")
        windows = [
            Kept(records[at + _HEAD.size : at + size], *_HEAD.unpack_from(records, at))
            for at in range(0, len(records), size)
        ]
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{name}: windows of an alarm ({MAGIC.decode()}) expected, cut short or damaged") from error
    return alarm_id, about, windows


def _key(alarm_id: str) -> str:
    """A file name, whatever the alarm's id holds: it comes from the link."""
    return hashlib.sha256(alarm_id.encode(errors="replace")).hexdigest()[:32]


def _told(folder: Path, error: OSError) -> DataError:
    return DataError(f"{folder}: windows of alarms cannot be read or written: {error.strerror}")
