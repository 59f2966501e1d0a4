"""MAVLink frames in a stream of bytes: version 1 and 2, checked by CRC. Pure; unpacks nothing, keeps no clock, survives any bytes.

A signature (MAVLink 2) is passed over and not verified: who needs it keeps strangers off the link. What cannot be checked, for
its id is unknown, is counted and never decoded.

Source: mavlink.io, "Serialization" (packet format, CRC-16/MCRF4XX over header, payload and CRC_EXTRA).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge.sources.mavlink_layouts import Layout

V1, V2 = 0xFE, 0xFD
_MAGIC = re.compile(b"[\xfd\xfe]")
_V1_HEAD, _V2_HEAD = 6, 10  # bytes before the payload
_SIGNED = 0x01  # incompatibility flag: 13 bytes of signature follow
_SIGNATURE_BYTES = 13
_REORDERED = 128  # a jump of so many is one back


def _crc_in_python(data: bytes) -> int:
    crc = 0xFFFF
    for byte in data:
        low = (byte ^ crc) & 0xFF
        low ^= (low << 4) & 0xFF
        crc = crc >> 8 ^ low << 8 ^ low << 3 ^ low >> 4
    return crc


def _fastest_crc() -> Callable[[bytes], int]:
    try:
        from fastcrc.crc16 import mcrf4xx  # pymavlink brings it
    except ImportError:
        return _crc_in_python
    return mcrf4xx


crc16 = _fastest_crc()  # CRC-16/MCRF4XX


# One checked frame: message id, sender as system << 8 | component, payload (trailing zeros may be cut off in MAVLink 2).
# A plain tuple: there are hundreds a second.
Frame = tuple[int, int, bytes]


class Frames:
    """Cuts one stream.

    Attributes:
        frames, bad, unknown, lost: frames that were checked; stretches of bytes that are no frame; frames with an id that we
            have no definition of; frames that the sender's sequence numbers say are missing.
    """

    def __init__(self, layouts: Mapping[int, Layout]) -> None:
        """`layouts` by message id: what can be checked."""
        self._extras = {number: bytes((layout.extra,)) for number, layout in layouts.items()}
        self._rest = b""
        self._next: dict[int, int] = {}  # system << 8 | component -> sequence number that is expected
        self._in_noise = False
        self.frames = self.bad = self.unknown = self.lost = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Frames that these bytes complete; fewer than 293 bytes are kept for the next call."""
        data = self._rest + data if self._rest else data
        out: list[Frame] = []
        at, end = 0, len(data)
        extras = self._extras
        while at < end:
            if data[at] not in (V2, V1):
                found = _MAGIC.search(data, at)
                self._noise()
                at = found.start() if found else end
                continue
            head = _V2_HEAD if data[at] == V2 else _V1_HEAD
            if end - at < head:
                break
            crc_at = at + head + data[at + 1]
            if head == _V2_HEAD:
                flags, sequence, system, component = data[at + 2], data[at + 4], data[at + 5], data[at + 6]
                number = data[at + 7] | data[at + 8] << 8 | data[at + 9] << 16
            else:
                flags, sequence, system, component, number = 0, data[at + 2], data[at + 3], data[at + 4], data[at + 5]
            after = crc_at + 2 + (_SIGNATURE_BYTES if flags & _SIGNED else 0)
            if flags & ~_SIGNED:  # by the format: a frame with a flag that is not understood is dropped
                self._noise()
                at += 1
                continue
            if after > end:
                break
            sender = system << 8 | component
            extra = extras.get(number)
            if extra is None:
                at = self._pass_over(data, at, after, sender, sequence)
                continue
            if crc16(data[at + 1 : crc_at] + extra) != data[crc_at] | data[crc_at + 1] << 8:
                self._noise()
                at += 1
                continue
            self._in_noise = False
            self.frames += 1
            if self._next.get(sender) == sequence:
                self._next[sender] = (sequence + 1) & 0xFF
            else:
                self._count(sender, sequence)
            out.append((number, sender, data[at + head : crc_at]))
            at = after
        self._rest = data[at:]
        return out

    def _pass_over(self, data: bytes, at: int, after: int, sender: int, sequence: int) -> int:
        """What has an unknown id is a frame where it ends with the data or where another begins; returns where to go on."""
        if after < len(data) and data[after] not in (V2, V1):
            self._noise()
            return at + 1
        self.unknown += 1
        if sender in self._next:  # unchecked: no stranger is remembered for it
            self._count(sender, sequence)
        return after

    def forget(self) -> None:
        """What waits for the rest of its frame will not get it."""
        self._rest = b""

    def _noise(self) -> None:
        """Bytes that are no frame, counted once for each stretch of them."""
        self.bad += not self._in_noise
        self._in_noise = True

    def _count(self, sender: int, sequence: int) -> None:
        expected = self._next.get(sender)
        self._next[sender] = (sequence + 1) & 0xFF
        skipped = 0 if expected is None else (sequence - expected) & 0xFF
        if skipped < _REORDERED:
            self.lost += skipped


def frame(number: int, extra: int, payload: bytes, sequence: int, system: int, component: int) -> bytes:
    """A MAVLink 2 frame without a signature."""
    payload = payload.rstrip(b"\0") or b"\0"
    header = bytes((len(payload), 0, 0, sequence, system, component)) + number.to_bytes(3, "little")
    return bytes((V2,)) + header + payload + crc16(header + payload + bytes((extra,))).to_bytes(2, "little")
