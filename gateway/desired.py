"""What the cloud wants of each device, newest revision only, and which of it is still to be published.

Pure: no socket, no clock.
"""

from __future__ import annotations

from covey import topics, wire
from covey.errors import WireError


class DesiredBook:
    """Newest `desired` per device, as the bytes that came."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, bytes]] = {}  # device -> (revision, bytes)
        self._open: dict[str, None] = {}  # devices to publish, in order

    def __len__(self) -> int:
        return len(self._known)

    @property
    def waiting(self) -> int:
        """Devices whose desired is still to be published."""
        return len(self._open)

    def put(self, device: str, value: bytes | None) -> bool:
        """Take a record of `covey.desired`; True when it changes what is wanted.

        None (a tombstone) clears the retained message.

        Raises:
            WireError: not a `wire.Desired`, or of another device than its key.
        """
        if not topics.is_device(device):
            raise WireError("bad_schema", f"key: device name expected, {device[:80]!r} received")
        if value is None:
            if self._known.pop(device, None) is None:
                return False
            self._open[device] = None
            return True
        desired = wire.decode(wire.Desired, value)
        if desired.device != device:
            raise WireError("bad_schema", f"desired of {device} expected by the key, {desired.device[:80]!r} received")
        known = self._known.get(device)
        if known is not None and (known[0] > desired.revision or known == (desired.revision, value)):
            return False
        self._known[device] = (desired.revision, value)
        self._open[device] = None
        return True

    def again(self) -> None:
        """Everything is to be published again: a new connection, or time has passed."""
        self._open.update(dict.fromkeys(self._known))

    def take(self) -> tuple[str, bytes] | None:
        """The next (device, payload) to publish retained; an empty payload clears. None when nothing waits."""
        if not self._open:
            return None
        device = next(iter(self._open))
        del self._open[device]
        known = self._known.get(device)
        return device, known[1] if known is not None else b""
