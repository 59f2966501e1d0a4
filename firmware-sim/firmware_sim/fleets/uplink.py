"""The way up of a whole fleet: events into the ledger, committed together, sent by the product's rule, deleted when acknowledged.

What is committed may be sent, nothing else; what is sent when, and again, is edge/resend.py for each device. A disk that takes
nothing makes everything wait: nothing is given out, and the next commit tries again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from covey import topics, wire
from covey.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firmware_sim.fleets.device import Device
    from firmware_sim.fleets.progress import Progress
    from firmware_sim.net.sessions import Sessions
    from firmware_sim.truth.ledger import Ledger

COMMIT_S = 0.2  # rows of this long are written and sent together; an agent's outbox waits 0.25 s
BATCH = 32  # rows sent by a device in one turn, as edge/uplink.py


class Uplink:
    """The outboxes of all devices, and what leaves them."""

    def __init__(self, devices: Sequence[Device], ledger: Ledger, sessions: Sessions, progress: Progress) -> None:
        self._devices, self._ledger, self._sessions, self._progress = devices, ledger, sessions, progress
        self._uncommitted: set[int] = set()
        self._next_commit_s = 0.0
        self._urgent = False
        self.wanting: set[int] = set()  # devices that may have something to send
        for i, device in enumerate(devices):  # what a simulation that was killed has left on the flashes
            written, depth = ledger.last_seq(i), ledger.depth(i)
            if written:
                progress.written["earlier"] += written
                progress.acknowledged += written - depth
                device.waiting = {row.seq: len(row.body) for row in ledger.batch(i, 0, depth)}

    def put(
        self,
        i: int,
        kind: str,
        data: wire.Summary | wire.Alarm | wire.Status,
        true_s: float,
        device_s: float,
        trace: str,
    ) -> None:
        """Write one event of a device; an alarm is committed in this turn, as an agent's outbox does it.

        Args:
            i: the device.
            kind: summary, alarm or status.
            data: of that kind.
            true_s: when, in true time: for the ledger.
            device_s: when, by the device's clock: for the event.
            trace: W3C traceparent, or "".
        """
        waiting = self._devices[i].waiting

        def build(identity: wire.Identity) -> bytes:
            body = wire.make_event(identity, kind, device_s, data, trace)
            waiting[identity.seq] = len(body)
            return body

        self._ledger.put(i, kind, true_s, build)
        self._progress.written[kind] += 1
        self._uncommitted.add(i)
        self._urgent |= kind == "alarm"

    def commit(self, t_s: float, *, now: bool = False) -> bool:
        """Bring to disk what is due, or everything there is with `now`; returns whether anything was.

        The devices whose rows these are may then send them.
        """
        if not self._uncommitted or not (now or self._urgent or t_s >= self._next_commit_s):
            return False
        self._next_commit_s = t_s + COMMIT_S
        try:
            self._ledger.commit()
        except StoreError as error:
            self._progress.trouble = str(error)
            return False
        self._progress.trouble = ""
        self.wanting |= self._uncommitted
        self._uncommitted, self._urgent = set(), False
        return True

    def send(self, t_s: float) -> set[int]:
        """Publish what may be sent now; returns the devices that have rows in flight."""
        wanting, self.wanting = self.wanting, set()
        sent: set[int] = set()
        for i in wanting:
            device = self._devices[i]
            room = min(device.window.room(t_s), self._sessions.room(i), BATCH) if device.connected else 0
            if room <= 0 or not device.waiting:
                continue
            for row in self._ledger.batch(i, device.window.after, room):
                if self._sessions.publish(i, topics.mqtt_topic(device.plan.name, row.kind), row.body) is None:
                    break
                device.sent_bytes += len(row.body)
                device.window.sent(row.seq, t_s)
            sent.add(i)
        return sent

    def acknowledge(self, i: int, ack: wire.Ack, true_s: float) -> None:
        """The cloud has these rows: they go, and what waited behind them may follow."""
        device = self._devices[i]
        for one in ack.acks:
            if one.outbox == device.outbox:  # another one's: of a ledger that is gone
                self._progress.acknowledged += self._ledger.acknowledge(i, one.outbox, one.ranges, true_s)
                device.acknowledged(one.ranges)
        if device.waiting:
            self.wanting.add(i)

    def late(self, i: int, t_s: float) -> bool:
        """Look after the oldest row in flight; returns whether the device goes on waiting for an answer."""
        device = self._devices[i]
        if not device.connected:
            return False
        if device.window.late(t_s):
            self._progress.resends += 1
            if self._sessions.unconfirmed(i):  # the broker does not answer at all: the connection is dead
                self._sessions.cut(i)
                device.connected = False
                return False
            self.wanting.add(i)
        return device.window.in_flight > 0
