"""Outbox and link together: events go to disk first, then to the broker, and are deleted when the cloud says they are safe.

It knows no model; what comes from the cloud and is not an `ack` or the gateway's presence is handed to the agent.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from covey import wire
from covey.errors import LinkError, StoreError, WireError
from edge.budget import Budget
from edge.spans import Sent

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

    from msgspec import Struct

    from covey.tracing import Tracing
    from edge.link import Link, Message
    from edge.outbox import Outbox
    from edge.resend import SendWindow

_BATCH = 32
_OFFLINE_S = 2.0  # a stop without a connection waits no longer for one


class Uplink:
    """The way up, and what comes down it."""

    def __init__(
        self,
        outbox: Outbox,
        link: Link,
        window: SendWindow,
        log: logging.Logger,
        budget: Budget | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.outbox, self.link, self.window = outbox, link, window
        self.budget = budget or Budget({})
        self._log = log
        self._was_connected = False
        self._heard = False  # a gateway was heard to speak on this connection
        self._trouble = ""
        self._sent = None if tracing is None else Sent(tracing)
        if outbox.damaged:
            log.warning("%s: damaged and set aside; a new outbox %s begins", outbox.path, outbox.id)
        if outbox.restored:
            log.warning("%s: older than what was sent; a new outbox %s begins", outbox.path, outbox.id)

    def put(
        self,
        kind: str,
        data: Struct,
        traceparent: str = "",
        *,
        tells: Sequence[wire.Dropped] = (),
        answers: str = "",
    ) -> None:
        """Queue one event; its bytes never change from here to the store. `answers`: id of a command."""
        now_s = time.time()
        self.outbox.put(
            kind, lambda identity: wire.make_event(identity, kind, now_s, data, traceparent), tells, answers
        )

    def step(self, now_s: float) -> list[wire.Desired | wire.Command]:
        """Do what is due without waiting; `now_s` is monotonic. Returns what the cloud wants of the agent."""
        self.outbox.tick()
        if self.outbox.trouble != self._trouble:
            self._trouble = self.outbox.trouble
            self._log.warning("outbox: %s", self._trouble or "writes again")
        wanted: list[wire.Desired | wire.Command] = []
        messages = self.link.step(now_s)
        if self.link.connected and not self._was_connected:
            self.window.connected(now_s)
            self.budget.on(self.link.interface)
            self._heard = False
        self._was_connected = self.link.connected
        for message in messages:
            try:
                self._take(message, now_s, wanted)
            except (WireError, StoreError) as error:
                self._log.warning("%s: %s", message.kind, error)
        if self.link.connected:
            self._send(now_s)
        return wanted

    def flush(self, timeout_s: float) -> bool:
        """Send until everything is acknowledged or the time is up; at an orderly stop."""
        self.outbox.commit()
        began_s = time.monotonic()
        while self.outbox.depth:
            waited_s = time.monotonic() - began_s
            if waited_s > (timeout_s if self.link.connected else min(timeout_s, _OFFLINE_S)):
                break
            self.step(time.monotonic())
            time.sleep(0.02)
        return self.outbox.depth == 0

    def _take(self, message: Message, now_s: float, wanted: list[wire.Desired | wire.Command]) -> None:
        kind, payload, retained = message
        if not payload:  # a retained message that was cleared
            return
        if kind == "gateway":
            online = wire.decode(wire.GatewayPresence, payload).online
            self.window.gateway(now_s, online=online)
            if online and not retained and not self._heard:
                self.link.announce()  # our birth may have been said to nobody: it is not retained
            self._heard = online and (self._heard or not retained)
        elif kind == "ack":
            for one in wire.decode(wire.Ack, payload).acks:
                places = self.outbox.places(one.outbox, one.ranges)  # none: of a file that is gone, or another card's
                if places:
                    self.outbox.acknowledge(places)
                    self.window.acknowledged(places)
                    if self._sent is not None:
                        self._sent.acknowledged(places, time.time())
        elif kind == "desired":
            wanted.append(wire.decode(wire.Desired, payload))
        elif kind == "command":
            wanted.append(wire.decode(wire.Command, payload))

    def _send(self, now_s: float) -> None:
        if self.window.late(now_s):
            if self.link.unconfirmed:  # the broker does not answer at all: the connection is dead
                self.link.drop(f"{self.link.unconfirmed} messages without an answer from the broker", now_s)
                return
            self._log.info("no acknowledgement: %d rows are sent again, oldest first", self.outbox.depth)
        count = min(self.window.room(now_s), self.link.room, _BATCH)
        if count <= 0:
            return
        upto = None if self.budget.may_send(now_s) else self.outbox.newest("alarm")
        if upto is not None and upto <= self.window.after:
            return
        for row in self.outbox.batch(self.window.after, count):
            if upto is not None and row.place > upto:
                return
            try:
                if not self.link.publish(row.kind, row.body):
                    return
            except LinkError as error:
                # It can never be sent, and would block what follows.
                self._log.warning("event at place %d given up: %s", row.place, error)
                self.outbox.give_up(row.place)
                continue
            self.window.sent(row.place, now_s)
            if self._sent is not None:
                self._sent.sent(row.place, row.body, time.time())
            self.budget.sent(len(row.body), summary=row.kind == "summary")
