"""Thousands of MQTT 5 sessions in one process: one epoll, one thread, no callbacks.

Each device keeps a session of its own (session.py) on a TCP connection of its own (connection.py), behind its own emulated
link (links.py). `step` does everything: it connects what is due, sends what waits (all packets of a step in one send), reads
what came, and lets time pass on links and keepalives. Timers are in one heap: a step in which nothing happens does not look
at the sessions. A broken connection is an ordinary state, tried again with the agent's own backoff; what a broker sends can
end a session, never the process. It keeps no rows and repeats no message: whoever published knows what was not confirmed.

An emulated outage, or a device without power, is silent: its TCP connection stays open on the broker's side, which learns of
it by keepalive alone. Sockets of connections that the device gave up meanwhile are therefore kept and closed later.
"""

from __future__ import annotations

import heapq
import secrets
import select
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from covey.errors import LinkError
from firmware_sim.connection import DOWN, UP, Connection, reset
from firmware_sim.ghosts import Ghosts, allow_open_files
from firmware_sim.line import NEVER, STEADY_S, TIMERS, Happened, Line
from firmware_sim.links import LinkState
from firmware_sim.session import ENDED, MESSAGE, PUBACK, PUBACK_WINDOW, READY, Client, Counters

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

__all__ = ["Client", "Counters", "Happened", "Sessions"]

CONNECT_TIMEOUT_S = 5.0  # TCP, as the agent's
HALF_OPEN = 100  # mosquitto's listen backlog; what is beyond it waits for seconds in the kernel
SPARE_FILES = 64  # open files beside the sessions'

# Kinds of timers; UP and DOWN are two more.
_RETRY, _OPEN, _DEADLINE, _CLEAR = range(2, TIMERS)
_FOREVER = float("inf")


class Sessions:
    """MQTT 5 clients of one broker.

    Args:
        host: of the broker.
        port: of the broker.
        clients: one session each; their position is their index everywhere.
        keepalive_s: 0 to 65535; 0 turns it off.
        connect_per_s: first connections a second, in order of index; later ones come as they must.
        clock: monotonic seconds; `outage` speaks its language.
        window: unconfirmed messages of one session at most; the broker's Receive Maximum may make it less.
        half_open: connections at once that the broker has not yet answered, at most.
        tls: None for plain TCP.

    Attributes:
        counters: of all sessions since the start.

    Raises:
        UsageError: the process may not open so many files.
        LinkError: the host has no address.
    """

    def __init__(
        self,
        host: str,
        port: int,
        clients: Sequence[Client],
        *,
        keepalive_s: int = 30,
        connect_per_s: float = 500.0,
        clock: Callable[[], float] = time.monotonic,
        window: int = PUBACK_WINDOW,
        half_open: int = HALF_OPEN,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._host, self._tls = host, tls
        self._family, self._address = _resolve(host, port)
        files = allow_open_files(len(clients) + SPARE_FILES)
        self._keepalive_s, self._window, self._most_half_open = keepalive_s, window, half_open
        self._clock, self._zero_s = clock, clock()
        self._lines = [Line(client) for client in clients]
        self._timers = [(i / connect_per_s, _RETRY, i) for i in range(len(clients))]  # ascending: a heap
        for due_s, _, i in self._timers:
            self._lines[i].due[_RETRY] = due_s
        self._to_open: deque[int] = deque()
        self._half_open = 0
        self._dirty: list[int] = []
        self._index_of: dict[int, int] = {}  # file descriptor -> index
        self._ghosts = Ghosts(files - len(clients) - SPARE_FILES)
        self._timer = self._set  # one object for all connections
        self._happened: list[Happened] = []
        self._epoll = select.epoll()
        self._closing = False
        self.counters = Counters()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shut()

    def connected(self, index: int) -> bool:
        """Whether it is subscribed, so that messages flow both ways."""
        return self._lines[index].session.ready

    def session(self, index: int) -> str:
        """16 hex digits of its connection, as in its will; of the last one when it has none."""
        return self._lines[index].session.name

    def room(self, index: int) -> int:
        """How many messages it may publish now."""
        return self._lines[index].session.room

    def unconfirmed(self, index: int) -> int:
        """How many of its messages the broker has not confirmed."""
        return self._lines[index].session.unconfirmed

    def publish(self, index: int, topic: str, payload: bytes) -> int | None:
        """Send a message with QoS 1 at the next `step`; its packet id, or None when there is no room or no connection.

        Raises:
            LinkError: it is larger than the broker takes.
        """
        line = self._lines[index]
        packet_id = line.session.publish(topic, payload, self._now())
        if packet_id is not None:
            self.counters.published += 1
            if not line.dirty:
                line.dirty = True
                self._dirty.append(index)
        return packet_id

    def cut(self, index: int) -> None:
        """Drop its TCP connection without DISCONNECT; it connects again by itself."""
        if self._lines[index].connection is not None:
            self._drop(index, "cut", self._now())

    def off(self, index: int) -> None:
        """Take its power: it falls silent, and the broker learns of it by keepalive."""
        line = self._lines[index]
        if line.on:
            line.on = False
            now_s = self._now()
            self._drop(index, "off", now_s, quiet_until_s=now_s + 2 * self._keepalive_s)

    def on(self, index: int) -> None:
        """Give it power again: it connects at once, as after a start."""
        line = self._lines[index]
        if not line.on:
            line.on = True
            line.tries = 0
            self._set(index, _RETRY, self._now())

    def outage(self, index: int, until_s: float) -> None:
        """Let its link carry nothing until `until_s` of the clock; its TCP connection stays."""
        line = self._lines[index]
        if line.link is None:
            line.link = LinkState(line.session.client.link, line.session.client.seed)
            if line.connection is not None:
                line.connection.link = line.link
            self._set(index, _CLEAR, until_s - self._zero_s)
        line.link.outage(self._now(), until_s - self._zero_s)

    def step(self, timeout_s: float = 0.0) -> list[Happened]:
        """Do what is due, then wait for at most `timeout_s` until something happens; returns what did, in order."""
        now_s = self._now()
        self._pass_time(now_s)
        self._open_some(now_s)
        self._flush(now_s)
        wait_s = 0.0 if self._happened else timeout_s
        if self._timers:
            wait_s = min(wait_s, self._timers[0][0] - now_s)
        wait_s = max(0.0, min(wait_s, self._ghosts.next_s - now_s))
        events = self._epoll.poll(wait_s, 4096)
        if events:
            now_s = self._now()
            for fd, mask in events:
                index = self._index_of.get(fd)
                if index is not None:
                    self._tell(index, self._lines[index], mask, now_s)
            self._flush(now_s)
        happened, self._happened = self._happened, []
        return happened

    def close(self, timeout_s: float = 5.0) -> None:
        """Wait for PUBACKs, say DISCONNECT, wait until the broker closed; at most `timeout_s` in all.

        Nothing is connected again. What happens meanwhile is not told: whoever wants the last PUBACKs steps until
        `unconfirmed` is 0 before.
        """
        deadline_s = self._clock() + timeout_s
        self._closing = True
        for index, line in enumerate(self._lines):
            if not line.session.ready:
                self._drop(index, "closed", self._now())
        while any(line.session.unconfirmed for line in self._lines) and self._clock() < deadline_s:
            self.step(0.02)
        for index, line in enumerate(self._lines):
            if line.session.ready:
                line.session.disconnect()
                self._mark(index, line)
        while self._index_of and self._clock() < deadline_s:
            self.step(0.02)
        self._shut()

    def _now(self) -> float:
        return self._clock() - self._zero_s

    # Time

    def _set(self, index: int, kind: int, due_s: float) -> None:
        self._lines[index].due[kind] = due_s
        if due_s != _FOREVER:
            heapq.heappush(self._timers, (due_s, kind, index))

    def _pass_time(self, now_s: float) -> None:
        self._ghosts.close_due(now_s)
        timers = self._timers
        while timers and timers[0][0] <= now_s:
            due_s, kind, index = heapq.heappop(timers)
            line = self._lines[index]
            if line.due[kind] != due_s:
                continue  # of a connection that is gone, or moved
            line.due[kind] = NEVER
            try:
                self._due(index, line, kind, now_s)
            except LinkError as error:
                self._drop(index, str(error), now_s)

    def _due(self, index: int, line: Line, kind: int, now_s: float) -> None:
        connection = line.connection
        if kind == UP and connection is not None:
            connection.come_up(now_s)
        elif kind == DOWN and connection is not None:
            self._take(index, line, connection.come_down(now_s), now_s)
        elif kind == _DEADLINE:
            self._check(index, line, now_s)
        elif kind == _RETRY:
            self._begin(index, line, now_s)
        elif kind == _OPEN:
            self._queue(index, line)
        elif kind == _CLEAR and line.link is not None:
            self._clear(index, line, line.link, now_s)

    def _check(self, index: int, line: Line, now_s: float) -> None:
        if line.connection is None or not line.connection.open:
            raise LinkError("no TCP connection in time")
        self._set(index, _DEADLINE, line.session.check(now_s))
        self._mark(index, line)

    def _clear(self, index: int, line: Line, link: LinkState, now_s: float) -> None:
        """The link of an outage, over a connection to which nothing else is added, is not needed any more."""
        end_s = link.outage_end(now_s)
        if end_s > now_s or (line.connection is not None and not line.connection.idle):
            self._set(index, _CLEAR, max(end_s, now_s + 1.0))
        else:
            line.link = None
            if line.connection is not None:
                line.connection.link = None

    # Connections

    def _begin(self, index: int, line: Line, now_s: float) -> None:
        if line.on and not self._closing and not line.trying:
            line.trying = True
            line.begun_s = now_s
            if line.link is None:
                self._queue(index, line)
            else:
                self._set(index, _DEADLINE, now_s + CONNECT_TIMEOUT_S)
                self._set(index, _OPEN, line.link.handshake(now_s))

    def _queue(self, index: int, line: Line) -> None:
        if not line.queued:
            line.queued = True
            self._to_open.append(index)

    def _open_some(self, now_s: float) -> None:
        while self._to_open and self._half_open < self._most_half_open:
            index = self._to_open.popleft()
            line = self._lines[index]
            line.queued = False
            if line.trying and line.connection is None:
                try:
                    self._open(index, line, now_s)
                except LinkError as error:
                    self._drop(index, str(error), now_s)

    def _open(self, index: int, line: Line, now_s: float) -> None:
        connection = Connection(
            self._epoll, line.link, index, self._timer, self.counters, tls=self._tls, host=self._host
        )
        line.connection = connection
        line.half_open = True
        self._half_open += 1
        if line.link is None:
            line.begun_s = now_s  # it may have waited for its turn, which is our doing
            self._set(index, _DEADLINE, now_s + CONNECT_TIMEOUT_S)
        self._index_of[connection.begin(self._family, self._address)] = index

    def _answered(self, line: Line) -> None:
        if line.half_open:
            line.half_open = False
            self._half_open -= 1

    def _tell(self, index: int, line: Line, mask: int, now_s: float) -> None:
        connection = line.connection
        if connection is None:
            return
        try:
            if not connection.open:
                self._opened(index, line, connection, now_s)
                return
            if mask & select.EPOLLOUT:
                connection.writable()
            if mask & ~select.EPOLLOUT:
                self._take(index, line, connection.readable(now_s), now_s)
        except LinkError as error:
            self._drop(index, str(error), now_s)

    def _opened(self, index: int, line: Line, connection: Connection, now_s: float) -> None:
        connection.opened(now_s)
        if line.link is not None:  # its answer is far away; the others must not wait for it
            self._answered(line)
        line.session.begin(secrets.token_hex(8), line.begun_s, now_s, self._keepalive_s, self._window)
        self._check(index, line, now_s)

    def _drop(self, index: int, why: str, now_s: float, *, quiet_until_s: float = 0.0) -> None:
        """End its connection, or its try; `quiet_until_s`: the broker must not notice before."""
        line = self._lines[index]
        connection, line.connection = line.connection, None
        was_ready = line.session.ready
        self._answered(line)
        if connection is not None and connection.sock is not None:
            self._index_of.pop(connection.sock.fileno(), None)
            if line.link is not None:
                quiet_until_s = max(quiet_until_s, line.link.outage_end(now_s))
            self._let_go(connection, quiet_until_s, now_s)
        clear_s = line.due[_CLEAR]
        line.due = [NEVER] * TIMERS
        line.due[_CLEAR] = clear_s
        line.session.end()
        if line.link is not None:
            line.link.clear()
        if was_ready:
            self.counters.connected -= 1
            if now_s - line.ready_s > STEADY_S:
                line.tries = 0
            if not self._closing:
                self.counters.lost += 1
                self._happened.append(Happened(index, "lost", why))
        elif line.trying and not self._closing:
            self.counters.failed += 1
        if line.trying and not self._closing:
            self.counters.reasons[why] += 1
        line.trying = False
        if line.on and not self._closing:
            self._set(index, _RETRY, now_s + line.backoff_s())

    def _let_go(self, connection: Connection, quiet_until_s: float, now_s: float) -> None:
        was_open, sock = connection.open, connection.detach()
        if sock is None:
            return
        if was_open and quiet_until_s > now_s and not self._closing:
            self._ghosts.keep(sock, quiet_until_s)
        else:
            reset(sock)

    # Bytes

    def _mark(self, index: int, line: Line) -> None:
        if line.session.out and not line.dirty:
            line.dirty = True
            self._dirty.append(index)

    def _flush(self, now_s: float) -> None:
        dirty, self._dirty = self._dirty, []
        for index in dirty:
            line = self._lines[index]
            line.dirty = False
            out, connection = line.session.out, line.connection
            if not out or connection is None:
                continue
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            try:
                connection.send(data, now_s)
            except LinkError as error:
                self._drop(index, str(error), now_s)

    def _take(self, index: int, line: Line, data: bytes, now_s: float) -> None:
        if not data:
            return
        self._answered(line)
        counters = self.counters
        for what, detail in line.session.feed(data, now_s):
            if what == PUBACK:
                counters.pubacks += 1
                self._happened.append(Happened(index, "puback", detail))
            elif what == MESSAGE:
                counters.messages += 1
                self._happened.append(Happened(index, "message", detail))
            elif what == READY:
                counters.connected += 1
                counters.connects += 1
                line.ready_s = now_s
                self._happened.append(Happened(index, "ready", detail))
                self._check(index, line, now_s)
            elif what == ENDED:
                raise LinkError(str(detail))
        self._mark(index, line)

    def _shut(self) -> None:
        """Close every socket; what was written still goes out."""
        self._closing = True
        self._ghosts.clear()
        for line in self._lines:
            connection, line.connection = line.connection, None
            sock = connection.detach() if connection is not None else None
            if sock is not None:
                sock.close()
            line.session.end()
        self._index_of.clear()
        self._timers.clear()
        self._to_open.clear()
        self.counters.connected = 0
        self._epoll.close()


def _resolve(host: str, port: int) -> tuple[int, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise LinkError(f"mqtt {host}:{port}: {error}") from error
    return found[0], (str(found[4][0]), int(found[4][1]))
