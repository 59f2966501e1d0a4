"""How a MAVLink telemetry log begins: told without the libraries that read it. Pure."""

from __future__ import annotations

STAMP_BYTES = 8
MAGICS = (0xFD, 0xFE)  # MAVLink 2, MAVLink 1
_FROM_US, _TO_US = 946_684_800 * 10**6, 4_102_444_800 * 10**6  # 2000 to 2100: what a stamp may say


def is_tlog(head: bytes) -> bool:
    """Whether these 9 bytes are a time (big endian, microseconds since 1970) and the begin of a MAVLink frame."""
    return (
        len(head) > STAMP_BYTES
        and head[STAMP_BYTES] in MAGICS
        and _FROM_US <= int.from_bytes(head[:STAMP_BYTES], "big") <= _TO_US
    )
