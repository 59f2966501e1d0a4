"""What each MAVLink message looks like on the wire: taken once from pymavlink's dialect, as plain tables.

pymavlink's own parser builds an object for every message; a device that wants 20 numbers of 600 messages a second decodes
those alone, from the same tables. ESC_INFO and ESC_STATUS are in common.xml but not in pymavlink's dialects (2.4.50), so their layout
stands here. The only file that imports pymavlink.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from covey.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable

_CLOCKS = {"time_boot_ms": 1e-3, "time_usec": 1e-6}  # field -> its unit, s


class Layout(NamedTuple):
    """One message.

    Attributes:
        name: as in the definition, upper case.
        size: of the whole payload, untruncated, bytes.
        unpack: from so many bytes, in wire order.
        extra: CRC_EXTRA.
        fields: names of what `unpack` gives, "MESSAGE.field" or "MESSAGE.field.0"; empty for text.
        clock: where its time stamp is: offset and size in bytes, unit in s; None without one.
        instance: position of the field that tells several sensors of one kind apart; -1 without one.
    """

    name: str
    size: int
    unpack: Callable[[bytes], tuple[Any, ...]]
    extra: int
    fields: tuple[str, ...]
    clock: tuple[int, int, float] | None
    instance: int

    def position(self, field: str) -> int:
        """Where `unpack` has a field (the first of an array).

        Raises:
            ValueError: there is no such field.
        """
        return self.fields.index(f"{self.name}.{field}")


# Name, CRC_EXTRA, instance field, fields in wire order as (name, type, length; 0: no array). Source: mavlink common.xml, message definitions 290 and 291.
_OWN: dict[int, tuple[str, int, str, tuple[tuple[str, str, int], ...]]] = {
    290: (
        "ESC_INFO",
        251,
        "index",
        (
            ("time_usec", "Q", 0),
            ("error_count", "I", 4),
            ("counter", "H", 0),
            ("failure_flags", "H", 4),
            ("temperature", "h", 4),
            ("index", "B", 0),
            ("count", "B", 0),
            ("connection_type", "B", 0),
            ("info", "B", 0),
        ),
    ),
    291: (
        "ESC_STATUS",
        10,
        "index",
        (("time_usec", "Q", 0), ("rpm", "i", 4), ("voltage", "f", 4), ("current", "f", 4), ("index", "B", 0)),
    ),
}


@lru_cache(maxsize=1)
def layouts() -> dict[int, Layout]:
    """Every message of pymavlink's dialect `ardupilotmega` (it includes common) by its id.

    Raises:
        MissingExtra: pymavlink is not installed.
    """
    try:
        from pymavlink.dialects.v20 import ardupilotmega as dialect
    except ImportError as error:
        raise MissingExtra("mavlink", "pymavlink") from error
    out = {number: _layout(*own) for number, own in _OWN.items()}
    for number, message in dialect.mavlink_map.items():
        out[number] = _of_pymavlink(message)
    return out


def _of_pymavlink(message: Any) -> Layout:
    codes = bytes(message.native_format).decode()[1:]
    fields = tuple(zip(message.ordered_fieldnames, codes, message.array_lengths, strict=True))
    return _layout(message.msgname, message.crc_extra, message.instance_field or "", fields)


def _layout(name: str, extra: int, instance: str, fields: tuple[tuple[str, str, int], ...]) -> Layout:
    form, offset, position = "<", 0, -1
    names: list[str] = []
    clock: tuple[int, int, float] | None = None
    for field, code, length in fields:
        if field == instance:
            position = len(names)
        if code == "c":
            part = f"{length or 1}s"
            names.append("")
        else:
            part = f"{length or ''}{code}"
            names += [f"{name}.{field}.{i}" for i in range(length)] if length else [f"{name}.{field}"]
        if field in _CLOCKS and clock is None:
            clock = (offset, struct.calcsize("<" + part), _CLOCKS[field])
        offset += struct.calcsize("<" + part)
        form += part
    packing = struct.Struct(form)
    return Layout(name, packing.size, packing.unpack, extra, tuple(names), clock, position)
