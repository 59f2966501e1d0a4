"""What the cloud wants of each device, newest only, and which of it is still to be published.

Newest: the greater revision. Where a tombstone is one of the two, the later record: by place within a partition, by Kafka's
time between partitions (a topic that was given more partitions holds a device's older records elsewhere).
Pure: no socket, no clock (times are arguments).
"""

from __future__ import annotations

from collections import deque

from covey import topics, wire
from covey.errors import WireError

_BURST = 50.0  # of what is published again with time, after a pause


class _Known:
    __slots__ = ("partition", "published_s", "revision", "time_ms", "value")

    def __init__(self, revision: int, value: bytes | None, partition: int, time_ms: int) -> None:
        self.revision = revision  # 0 for a tombstone
        self.value = value  # None: a tombstone
        self.partition = partition
        self.time_ms = time_ms
        self.published_s: float | None = None  # when this value was first published, monotonic


class DesiredBook:
    """Newest `desired` per device, as the bytes that came."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._open: dict[str, None] = {}  # devices to publish, in order
        self._cycle: deque[str] = deque()
        self._credit = 0.0
        self._then_s: float | None = None
        self._wanted = 0  # entries that are not tombstones

    def __len__(self) -> int:
        return self._wanted

    @property
    def waiting(self) -> int:
        """Devices whose desired is still to be published."""
        return len(self._open)

    def put(self, device: str, value: bytes | None, partition: int = 0, time_ms: int = 0) -> bool:
        """Take a record of `covey.desired`; True when it changes what is wanted.

        Args:
            device: the record's key.
            value: bytes of a `wire.Desired`; None (a tombstone) clears the retained message, also of a device that was
                not known: compaction leaves tombstones without what they cleared, and the broker may still have that.
            partition: where the record lies.
            time_ms: Kafka's time of the record.

        Raises:
            WireError: not a `wire.Desired`, or of another device than its key.
        """
        if not topics.is_device(device):
            raise WireError("bad_schema", f"key: device name expected, {device[:80]!r} received")
        revision = 0
        if value is not None:
            desired = wire.decode(wire.Desired, value)
            if desired.device != device:
                shown = desired.device[:80]
                raise WireError("bad_schema", f"desired of {device} expected by the key, {shown!r} received")
            revision = desired.revision
        known = self._known.get(device)
        if known is not None and not _newer(known, revision, value, partition, time_ms):
            return False
        self._wanted += (value is not None) - (known is not None and known.value is not None)
        self._known[device] = _Known(revision, value, partition, time_ms)
        self._open[device] = None
        return True

    def again(self, since_s: float | None = None) -> None:
        """Publish again: everything, or what was first published since a monotonic time (or not at all yet)."""
        for device, known in self._known.items():
            if since_s is None:
                if known.value is not None:
                    self._open[device] = None
            elif known.published_s is None or known.published_s >= since_s:
                self._open[device] = None

    def reopen(self, device: str) -> None:
        """What was published of a device may not have arrived."""
        if device in self._known:
            self._open[device] = None

    def trickle(self, now_s: float, interval_s: float) -> None:
        """Let each be published once more per interval, evenly spread; call it in every turn."""
        if self._then_s is not None and self._wanted:
            self._credit = min(_BURST, self._credit + (now_s - self._then_s) * self._wanted / interval_s)
        self._then_s = now_s
        while self._credit >= 1.0:
            if not self._cycle:
                self._cycle.extend(self._known)
            device = self._cycle.popleft()
            known = self._known.get(device)
            if known is not None and known.value is not None:
                self._open[device] = None
                self._credit -= 1.0
            elif not self._wanted:
                break

    def take(self, now_s: float = 0.0) -> tuple[str, bytes] | None:
        """The next (device, payload) to publish retained; an empty payload clears. None when nothing waits."""
        if not self._open:
            return None
        device = next(iter(self._open))
        del self._open[device]
        known = self._known[device]
        if known.published_s is None:
            known.published_s = now_s
        return device, known.value or b""


def _newer(known: _Known, revision: int, value: bytes | None, partition: int, time_ms: int) -> bool:
    if known.value is not None and value is not None:
        return revision > known.revision or (revision == known.revision and value != known.value)
    if known.value is None and value is None:
        if time_ms >= known.time_ms:
            known.time_ms, known.partition = time_ms, partition
        return False
    return partition == known.partition or time_ms >= known.time_ms
