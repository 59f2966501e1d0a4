"""What a link may cost: bytes an hour and whether it is metered, by network interface. Pure, but for `interface_of`.

An agent keeps within the budget by saying less, not by piling up: summaries cover longer periods. What is queued all the same
(after an outage, say) is sent as the budget allows, unless an alarm waits: that is sent at once with what lies before it, and the
budget is overdrawn. Nothing is ever sent out of order for it.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

_SIOCGIFADDR = 0x8915  # linux/sockios.h
_ANY = "*"
_BURST_S = 600.0  # of the hourly rate: what may be sent at once after silence
OVERHEAD_BYTES = 120  # MQTT and TLS framing, topic, acknowledgements both ways; about, for one event
_FIRST_GUESS_BYTES = 1200.0  # a summary


class LinkLimit(Struct, frozen=True, forbid_unknown_fields=True):
    """One interface's terms."""

    bytes_per_hour: Annotated[int, Meta(ge=0)] = 0  # up, MQTT payload and framing; 0: no limit
    metered: bool = False  # no releases are fetched over it


class Budget:
    """A token bucket over the links' limits; time is an argument (monotonic seconds)."""

    def __init__(self, limits: dict[str, LinkLimit]) -> None:
        """Begin with a full bucket; `limits` by interface name, "*" for all others."""
        self._limits = limits
        self._limit = limits.get(_ANY, LinkLimit())
        self._tokens = self._burst
        self._last_s: float | None = None
        self._size = _FIRST_GUESS_BYTES

    def on(self, interface: str) -> None:
        """The link in use; "" where it is not known."""
        limit = self._limits.get(interface, self._limits.get(_ANY, LinkLimit()))
        if limit != self._limit:
            self._limit = limit
            self._tokens = min(self._tokens, self._burst) if self._last_s is not None else self._burst

    @property
    def metered(self) -> bool:
        """Whether nothing large is to be fetched over it."""
        return self._limit.metered

    def may_send(self, now_s: float) -> bool:
        """Whether something is left."""
        rate = self._limit.bytes_per_hour / 3600.0
        if not rate:
            return True
        if self._last_s is not None:
            self._tokens = min(self._burst, self._tokens + (now_s - self._last_s) * rate)
        self._last_s = now_s
        return self._tokens > 0

    def sent(self, size_bytes: int, *, summary: bool) -> None:
        """One event was sent."""
        self._tokens -= size_bytes + OVERHEAD_BYTES
        if summary:
            self._size += 0.1 * (size_bytes + OVERHEAD_BYTES - self._size)

    def interval_s(self, wanted_s: float) -> float:
        """Between two summaries: as wanted, or as long as they need to fit."""
        rate = self._limit.bytes_per_hour / 3600.0
        return max(wanted_s, self._size / rate) if rate else wanted_s

    @property
    def _burst(self) -> float:
        return max(self._limit.bytes_per_hour / 3600.0 * _BURST_S, 2 * _FIRST_GUESS_BYTES)


def interface_of(address: str) -> str:
    """Name of the network interface that has an address; "" where none has (Linux)."""
    try:
        wanted = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(wanted, ipaddress.IPv6Address):
        if wanted.ipv4_mapped is None:
            return _of_ipv6(wanted)
        wanted = wanted.ipv4_mapped
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has no IPv4 address
            if answer[20:24] == wanted.packed:
                return name
    return "lo" if wanted.is_loopback else ""


def _of_ipv6(wanted: ipaddress.IPv6Address) -> str:
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except OSError:
        return ""
    for line in lines:
        parts = line.split()
        if len(parts) == 6 and bytes.fromhex(parts[0]) == wanted.packed:
            return parts[5]
    return ""
