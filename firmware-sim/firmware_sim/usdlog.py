"""Writes a flight as a Crazyflie uSD log, version 2: simulated and real flights take one road from here on.

The format is told in edge/sources/crazyflie.py, which reads it; here it is written from the same description, not shared
code, so that a mistake in one shows in the other. A log appears under its name only when it is complete.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from covey.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


EVENT_ID = 0xFFFF  # fixedFrequency, as the firmware's logger numbers it
_UNSIGNED = {"motor": ("I", "<u4"), "pwm": ("I", "<u4"), "pm": ("H", "<u2")}  # by group; all else is float


class Logged(Protocol):
    """What a log holds of a flight: C channel names, rows a second, samples (N, C)."""

    @property
    def channels(self) -> tuple[str, ...]: ...  # noqa: D102  # as above

    @property
    def rate_hz(self) -> float: ...  # noqa: D102  # as above

    @property
    def samples(self) -> NDArray[np.float64]: ...  # noqa: D102  # as above


def encode(flight: Logged) -> bytes:
    """The bytes of the log, CRC-32 included. Time stamps start at 0 and count microseconds."""
    codes = [_UNSIGNED.get(name.split(".", 1)[0], ("f", "<f4")) for name in flight.channels]
    header = struct.pack("<BHHH", 0xBC, 2, 1, EVENT_ID) + b"fixedFrequency\0" + struct.pack("<H", len(codes))
    for name, (code, _) in zip(flight.channels, codes, strict=True):
        header += f"{name}({code})".encode() + b"\0"
    fields = [("id", "<u2"), ("t", "<u8"), *((f"v{i}", kind) for i, (_, kind) in enumerate(codes))]
    records = np.zeros(len(flight.samples), dtype=np.dtype(fields))
    records["id"] = EVENT_ID
    records["t"] = np.rint(np.arange(len(records)) * (1e6 / flight.rate_hz))
    for i, (_, kind) in enumerate(codes):
        values = flight.samples[:, i]
        if kind != "<f4":
            values = np.clip(np.rint(values), 0, np.iinfo(kind).max)
        records[f"v{i}"] = values
    body = header + records.tobytes()
    return body + struct.pack("<I", zlib.crc32(body))


def write_log(flight: Logged, path: Path | str) -> Path:
    """Write one log; folders are made, an existing file is replaced as a whole.

    Raises:
        UsageError: the file cannot be written.
    """
    path = Path(path)
    data = encode(flight)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as out:
            temporary = Path(out.name)
            try:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
                temporary.chmod(0o644)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise UsageError(f"{path}: a writable place expected, {error.strerror or error} came") from error
    return path
