"""Thousands of MQTT 5 sessions in one process: one epoll, one thread, no callbacks.

Each device keeps a session of its own (session.py) on a TCP connection of its own, behind its own emulated link (links.py).
`step` does everything: it connects what is due, sends what waits (all packets of a step in one send), reads what came, and
lets time pass on links and keepalives. Timers are in one heap: a step in which nothing happens does not look at the sessions.
A broken connection is an ordinary state, tried again with the agent's own backoff; what a broker sends can end a session,
never the process. It keeps no rows and repeats no message: what was not confirmed is known by whoever published it.

An emulated outage, or a device without power, is silent: its TCP connection stays open on the broker's side, which learns of
it by keepalive alone. Sockets of connections that the device gave up meanwhile are therefore kept and closed later.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import resource
import secrets
import select
import socket
import struct
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from covey.errors import LinkError, UsageError
from firmware_sim.links import LinkState, mix
from firmware_sim.session import MESSAGE, PUBACK, PUBACK_WINDOW, READY, Client, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

__all__ = ["Client", "Counters", "Happened", "Sessions"]

CONNECT_TIMEOUT_S = 5.0  # TCP, as the agent's
STEADY_S = 10.0  # a connection that lasted so long was a good one: the next wait is short again
BACKOFF_BASE_S, BACKOFF_CAP_S = 0.2, 30.0
HALF_OPEN = 256  # TCP connections that are being opened at once; brokers listen with a backlog of 100 to 1024
DOWN_BUFFER = 65_536  # bytes on their way down one link before we stop reading, so that TCP slows the broker
SPARE_FILES = 64  # open files beside the sessions'

_RECEIVE = 65_536  # bytes
_RST = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, without TIME_WAIT on our side
_RETRY, _OPEN, _DEADLINE, _UP, _DOWN, _GHOST = range(6)  # kinds of timers
_NEVER = -1.0

What = Literal["ready", "lost", "message", "puback"]


class Happened(NamedTuple):
    """What `step` tells.

    detail: ready: the connection's session (16 hex digits, as in its will); lost: why; message: (topic, payload);
    puback: packet id.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    what: What
    detail: object


@dataclass(slots=True)
class Counters:
    """Of all sessions since the start.

    Attributes:
        connected: sessions that are ready now.
        connects: times that a session became ready.
        lost: times that a ready session ended without being asked to.
        failed: tries that did not become ready.
        sent_bytes: handed to TCP.
        received_bytes: taken from TCP.
        published: messages, QoS 1.
        pubacks: of them confirmed.
        messages: that came from the broker.
        reasons: why sessions ended or did not become ready -> times.
    """

    connected: int = 0
    connects: int = 0
    lost: int = 0
    failed: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    published: int = 0
    pubacks: int = 0
    messages: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class _Line:
    """One device's session, link and socket."""

    __slots__ = (
        "begun_s",
        "dirty",
        "down",
        "down_bytes",
        "draws",
        "due",
        "link",
        "on",
        "open",
        "pending",
        "ready_s",
        "session",
        "sock",
        "tries",
        "up",
    )

    def __init__(self, client: Client) -> None:
        self.session = Session(client)
        self.link = None if client.link.adds_nothing else LinkState(client.link, client.seed)
        self.sock: socket.socket | None = None
        self.open = False  # TCP is
        self.on = True
        self.dirty = False  # waits for `_flush`
        self.pending = b""  # what TCP did not take
        self.up: deque[tuple[float, bytes]] | None = None
        self.down: deque[tuple[float, bytes]] | None = None  # b"": the end
        self.down_bytes = 0
        self.due = [_NEVER] * 5  # when each kind of timer is due; entries of the heap that differ are of the past
        self.tries = self.draws = 0
        self.begun_s = self.ready_s = 0.0


class Sessions:
    """MQTT 5 clients to one broker.

    Args:
        host: of the broker.
        port: of the broker.
        clients: one session each; their position is their index everywhere.
        keepalive_s: 0 to 65535; 0 turns it off.
        connect_per_s: first connections a second, in order of index; later ones come as they must.
        clock: monotonic seconds; `outage` speaks its language.
        window: unconfirmed messages of one session at most; the broker's Receive Maximum may make it less.
        half_open: TCP connections being opened at the same time, at most.

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
    ) -> None:
        self._family, self._address = _resolve(host, port)
        files = allow_open_files(len(clients) + SPARE_FILES)
        self._most_ghosts = max(0, files - len(clients) - SPARE_FILES)
        self._keepalive_s, self._window, self._half_open_most = keepalive_s, window, half_open
        self._clock, self._zero_s = clock, clock()
        self._lines = [_Line(client) for client in clients]
        self._timers = [(i / connect_per_s, _RETRY, i) for i in range(len(clients))]  # ascending: a heap
        for due_s, _, i in self._timers:
            self._lines[i].due[_RETRY] = due_s
        self._to_open: deque[int] = deque()
        self._half_open = 0
        self._dirty: list[int] = []
        self._index_of: dict[int, int] = {}  # file descriptor -> index
        self._ghosts: dict[int, tuple[float, socket.socket]] = {}  # of connections that only the broker believes in
        self._happened: list[Happened] = []
        self._buffer = bytearray(_RECEIVE)
        self._view = memoryview(self._buffer)
        self._epoll = select.epoll()
        self._closing = False
        self.counters = Counters()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shut()

    # What the caller asks for

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
        if self._lines[index].sock is not None:
            self._drop(index, "cut", self._now())

    def off(self, index: int) -> None:
        """Take its power: it falls silent, and the broker learns of it by keepalive."""
        line = self._lines[index]
        now_s = self._now()
        line.on = False
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
        line.link.outage(self._now(), until_s - self._zero_s)

    def step(self, timeout_s: float = 0.0) -> list[Happened]:
        """Do what is due, then wait for at most `timeout_s` until something happens; returns what did, in order."""
        now_s = self._now()
        self._pass_time(now_s)
        self._open_some(now_s)
        self._flush(now_s)
        wait_s = 0.0 if self._happened else timeout_s
        if self._timers:
            wait_s = min(wait_s, max(0.0, self._timers[0][0] - now_s))
        if self._to_open and self._half_open < self._half_open_most:
            wait_s = 0.0
        events = self._epoll.poll(wait_s, 4096)
        if events:
            now_s = self._now()
            for fd, mask in events:
                self._socket_event(fd, mask, now_s)
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
        self._to_open.clear()
        while any(line.session.unconfirmed for line in self._lines) and self._clock() < deadline_s:
            self.step(min(0.05, timeout_s))
        for index, line in enumerate(self._lines):
            if line.session.ready:
                line.session.disconnect()
                self._mark(index, line)
            elif line.sock is not None:
                self._drop(index, "closed", self._now())
        while self._index_of and self._clock() < deadline_s:
            self.step(0.05)
        self._shut()

    # Time

    def _now(self) -> float:
        return self._clock() - self._zero_s

    def _set(self, index: int, kind: int, due_s: float) -> None:
        self._lines[index].due[kind] = due_s
        if due_s != float("inf"):
            heapq.heappush(self._timers, (due_s, kind, index))

    def _pass_time(self, now_s: float) -> None:
        timers = self._timers
        while timers and timers[0][0] <= now_s:
            due_s, kind, index = heapq.heappop(timers)
            if kind == _GHOST:
                self._bury(index, due_s)
                continue
            line = self._lines[index]
            if line.due[kind] != due_s:
                continue  # of a connection that is gone, or moved
            line.due[kind] = _NEVER
            if kind == _DEADLINE:
                self._check(index, line, now_s)
            elif kind == _UP:
                self._come_out_up(index, line, now_s)
            elif kind == _DOWN:
                self._come_out_down(index, line, now_s)
            elif kind == _RETRY:
                self._begin(index, line, now_s)
            else:
                self._to_open.append(index)

    def _check(self, index: int, line: _Line, now_s: float) -> None:
        if not line.open:
            self._drop(index, "no TCP connection in time", now_s)
            return
        try:
            due_s = line.session.check(now_s)
        except LinkError as error:
            self._drop(index, str(error), now_s)
            return
        self._set(index, _DEADLINE, due_s)
        self._mark(index, line)

    # Connections

    def _begin(self, index: int, line: _Line, now_s: float) -> None:
        if not line.on or self._closing:
            return
        line.begun_s = now_s
        self._set(index, _DEADLINE, now_s + CONNECT_TIMEOUT_S)
        if line.link is None:
            self._to_open.append(index)
        else:
            self._set(index, _OPEN, line.link.handshake(now_s))

    def _open_some(self, now_s: float) -> None:
        while self._to_open and self._half_open < self._half_open_most:
            index = self._to_open.popleft()
            line = self._lines[index]
            if line.on and line.sock is None and line.due[_DEADLINE] != _NEVER:
                self._open(index, line, now_s)

    def _open(self, index: int, line: _Line, now_s: float) -> None:
        try:
            sock = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            self._drop(index, _words(error), now_s)
            return
        line.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._index_of[sock.fileno()] = index
        self._half_open += 1
        code = sock.connect_ex(self._address)
        if code not in (0, errno.EINPROGRESS):
            self._drop(index, os.strerror(code).lower(), now_s)
            return
        self._epoll.register(sock.fileno(), select.EPOLLOUT)

    def _opened(self, index: int, line: _Line, sock: socket.socket, now_s: float) -> None:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._drop(index, os.strerror(code).lower(), now_s)
            return
        line.open = True
        self._half_open -= 1
        self._epoll.modify(sock.fileno(), select.EPOLLIN)
        line.session.begin(secrets.token_hex(8), line.begun_s, now_s, self._keepalive_s, self._window)
        self._check(index, line, now_s)

    def _drop(self, index: int, why: str, now_s: float, *, quiet_until_s: float = 0.0) -> None:
        """End its connection, or its try; `quiet_until_s`: the broker must not notice before."""
        line = self._lines[index]
        sock, line.sock = line.sock, None
        was_ready, was_trying = line.session.ready, sock is not None or line.due[_DEADLINE] != _NEVER
        if sock is not None:
            fd = sock.fileno()
            del self._index_of[fd]
            if not line.open:
                self._half_open -= 1
            with contextlib.suppress(OSError):  # not registered: connect failed at once, or its end was seen
                self._epoll.unregister(fd)
            if line.link is not None:
                quiet_until_s = max(quiet_until_s, line.link.outage_end(now_s))
            if line.open and quiet_until_s > now_s and not self._closing:
                self._keep_ghost(sock, quiet_until_s)
            else:
                _reset(sock)
        line.open = False
        line.pending = b""
        line.up = line.down = None
        line.down_bytes = 0
        line.due = [_NEVER] * 5
        line.session.end()
        if line.link is not None:
            line.link.clear()
        if was_ready:
            self.counters.connected -= 1
            self.counters.lost += 1
            self._happened.append(Happened(index, "lost", why))
            if now_s - line.ready_s > STEADY_S:
                line.tries = 0
        elif was_trying:
            self.counters.failed += 1
        if was_trying:
            self.counters.reasons[why] += 1
        if line.on and not self._closing:
            self._set(index, _RETRY, now_s + self._backoff_s(line))

    def _backoff_s(self, line: _Line) -> float:
        """Uniform in [base, min(cap, base * 2^n)], as the agent's (covey/runtime.py Backoff)."""
        top_s = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(line.tries, 30))
        line.tries += 1
        line.draws += 1
        return BACKOFF_BASE_S + (top_s - BACKOFF_BASE_S) * mix(line.session.client.seed ^ 0x6261636B, line.draws)

    def _keep_ghost(self, sock: socket.socket, until_s: float) -> None:
        if not self._most_ghosts:
            _reset(sock)
            return
        if len(self._ghosts) >= self._most_ghosts:
            _reset(self._ghosts.pop(next(iter(self._ghosts)))[1])  # the oldest
        fd = sock.fileno()
        self._ghosts[fd] = (until_s, sock)
        heapq.heappush(self._timers, (until_s, _GHOST, fd))

    def _bury(self, fd: int, due_s: float) -> None:
        if fd in self._ghosts and self._ghosts[fd][0] == due_s:
            _reset(self._ghosts.pop(fd)[1])

    # Bytes

    def _mark(self, index: int, line: _Line) -> None:
        if line.session.out and not line.dirty:
            line.dirty = True
            self._dirty.append(index)

    def _flush(self, now_s: float) -> None:
        dirty, self._dirty = self._dirty, []
        for index in dirty:
            line = self._lines[index]
            line.dirty = False
            out = line.session.out
            if not out or not line.open:
                continue
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            if line.link is None:
                self._write(index, line, data, now_s)
            else:
                self._push_up(index, line, line.link, data, now_s)

    def _push_up(self, index: int, line: _Line, link: LinkState, data: bytes, now_s: float) -> None:
        due_s = link.up(now_s, len(data))
        if line.up is None:
            line.up = deque()
        line.up.append((due_s, data))
        if len(line.up) == 1:
            self._set(index, _UP, due_s)

    def _come_out_up(self, index: int, line: _Line, now_s: float) -> None:
        while line.up and line.up[0][0] <= now_s:
            self._write(index, line, line.up.popleft()[1], now_s)
        if line.up:
            self._set(index, _UP, line.up[0][0])

    def _write(self, index: int, line: _Line, data: bytes, now_s: float) -> None:
        sock = line.sock
        if sock is None:
            return
        if line.pending:
            line.pending += data
            return
        try:
            sent = sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._ended(index, line, _words(error), now_s)
            return
        self.counters.sent_bytes += sent
        if sent < len(data):
            line.pending = data[sent:]
            self._epoll.modify(sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _socket_event(self, fd: int, mask: int, now_s: float) -> None:
        index = self._index_of.get(fd)
        if index is None:
            return
        line = self._lines[index]
        sock = line.sock
        if sock is None:
            return
        if not line.open:
            self._opened(index, line, sock, now_s)
            return
        if mask & select.EPOLLOUT:
            data, line.pending = line.pending, b""
            self._epoll.modify(fd, select.EPOLLIN)
            self._write(index, line, data, now_s)
        if mask & ~select.EPOLLOUT and line.sock is sock:
            self._read(index, line, sock, now_s)

    def _read(self, index: int, line: _Line, sock: socket.socket, now_s: float) -> None:
        try:
            size = sock.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._ended(index, line, _words(error), now_s)
            return
        if not size:
            self._ended(index, line, "connection closed by the broker", now_s)
            return
        self.counters.received_bytes += size
        data = bytes(self._view[:size])
        if line.link is None:
            self._take(index, line, data, now_s)
        else:
            self._push_down(index, line, line.link, data, now_s)

    def _ended(self, index: int, line: _Line, why: str, now_s: float) -> None:
        if line.link is None or line.sock is None:
            self._drop(index, why, now_s)
            return
        with contextlib.suppress(OSError):  # seen twice
            self._epoll.unregister(line.sock.fileno())  # level-triggered: it would be told for ever
        self._push_down(index, line, line.link, b"", now_s)  # the end takes its time, too

    def _push_down(self, index: int, line: _Line, link: LinkState, data: bytes, now_s: float) -> None:
        due_s = link.down(now_s, len(data))
        if line.down is None:
            line.down = deque()
        line.down.append((due_s, data))
        line.down_bytes += len(data)
        if line.down_bytes > DOWN_BUFFER and line.sock is not None:
            with contextlib.suppress(OSError):  # its end was seen
                self._epoll.modify(line.sock.fileno(), select.EPOLLOUT if line.pending else 0)
        if len(line.down) == 1:
            self._set(index, _DOWN, due_s)

    def _come_out_down(self, index: int, line: _Line, now_s: float) -> None:
        sock, was_full = line.sock, line.down_bytes > DOWN_BUFFER
        while line.down and line.down[0][0] <= now_s:
            data = line.down.popleft()[1]
            line.down_bytes -= len(data)
            if not data:
                self._drop(index, "connection closed by the broker", now_s)
                return
            self._take(index, line, data, now_s)
        if line.down:
            self._set(index, _DOWN, line.down[0][0])
        if was_full and line.down_bytes <= DOWN_BUFFER and sock is not None and line.sock is sock:
            with contextlib.suppress(OSError):
                self._epoll.modify(sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if line.pending else 0))

    def _take(self, index: int, line: _Line, data: bytes, now_s: float) -> None:
        try:
            events = line.session.feed(data, now_s)
        except LinkError as error:
            self._drop(index, str(error), now_s)
            return
        counters = self.counters
        for what, detail in events:
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
        if line.session.out:
            self._mark(index, line)

    def _shut(self) -> None:
        """Close every socket in good order."""
        self._closing = True
        for _, sock in self._ghosts.values():
            _reset(sock)
        self._ghosts.clear()
        for line in self._lines:
            if line.sock is not None:
                line.sock.close()
                line.sock = None
            line.session.end()
            line.due = [_NEVER] * 5
        self._index_of.clear()
        self._timers.clear()
        self.counters.connected = 0
        self._epoll.close()


def allow_open_files(need: int) -> int:
    """Raise this process' limit of open files to twice `need` if that is allowed; the limit it has then.

    Raises:
        UsageError: the hard limit forbids it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2 * need if hard == resource.RLIM_INFINITY else min(hard, 2 * need)
    if most < need:
        raise UsageError(f"{need} open files needed, {hard} allowed: raise the hard limit (ulimit -Hn, LimitNOFILE=)")
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(soft, most)


def _resolve(host: str, port: int) -> tuple[int, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise LinkError(f"mqtt {host}:{port}: {error}") from error
    return found[0], (str(found[4][0]), int(found[4][1]))


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is being closed anyway
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    sock.close()


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
