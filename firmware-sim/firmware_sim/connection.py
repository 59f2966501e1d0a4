"""One device's TCP connection behind its emulated link: bytes in, bytes out, TLS in between if wanted. Socket I/O only.

Without a link, bytes go to the socket at once. With one, what the device sends waits until the link has carried it, then goes
to the socket; what the socket gives waits until the link has brought it, the connection's end included. When too much is on
its way down, reading stops, so that TCP slows the broker as a slow link would. It knows nothing of MQTT, and never waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from covey.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from firmware_sim.links import LinkState
    from firmware_sim.session import Counters

UP: Final = 0
DOWN: Final = 1
DOWN_BUFFER = 65_536  # bytes on their way down one link

_RST = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, without TIME_WAIT on our side
_BUFFER = bytearray(65_536)  # of all connections: what is received leaves it before the next call
_VIEW = memoryview(_BUFFER)
_CLOSED = "connection closed by the broker"


class Connection:
    """One TCP connection, from its opening to its end.

    Args:
        epoll: that tells of its socket.
        link: None adds nothing.
        index: the device's, for `due`.
        due: is told (index, UP or DOWN, when) `come_up` or `come_down` is to be called.
        counters: of bytes.
        tls: None for none.
        host: whose certificate is expected.

    Attributes:
        open: TCP is.
    """

    __slots__ = (
        "_counters",
        "_down",
        "_down_bytes",
        "_due",
        "_ended",
        "_epoll",
        "_index",
        "_pending",
        "_secure",
        "_up",
        "link",
        "open",
        "sock",
    )

    def __init__(
        self,
        epoll: select.epoll,
        link: LinkState | None,
        index: int,
        due: Callable[[int, int, float], None],
        counters: Counters,
        tls: ssl.SSLContext | None = None,
        host: str = "",
    ) -> None:
        self._epoll, self.link, self._index, self._due, self._counters = epoll, link, index, due, counters
        self.sock: socket.socket | None = None
        self.open = False
        self._ended = ""  # why, while the link still brings what came before
        self._pending = b""  # what TCP did not take
        self._up: deque[tuple[float, bytes]] | None = None
        self._down: deque[tuple[float, bytes]] | None = None
        self._down_bytes = 0
        self._secure = _Secure(tls, host) if tls is not None else None

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way on the link."""
        return not self._up and not self._down and not self._ended

    def begin(self, family: int, address: tuple[str, int]) -> int:
        """Begin to open it; the file descriptor, of which epoll tells when it is open or was refused.

        Raises:
            LinkError: it failed at once.
        """
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            raise LinkError(_words(error)) from error
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            raise LinkError(os.strerror(code).lower())
        fd = sock.fileno()
        self._epoll.register(fd, select.EPOLLOUT)
        return fd

    def opened(self, now_s: float) -> None:
        """Epoll told of it for the first time.

        Raises:
            LinkError: it was refused.
        """
        if self.sock is None:
            return
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise LinkError(os.strerror(code).lower())
        self.open = True
        self._epoll.modify(self.sock.fileno(), select.EPOLLIN)
        if self._secure is not None:
            self._transmit(self._secure.begin(), now_s)

    def send(self, data: bytes, now_s: float) -> None:
        """Send bytes, as far as the link and TCP let them.

        Raises:
            LinkError: the connection has ended.
        """
        if self._secure is not None:
            data = self._secure.wrap(data)
        self._transmit(data, now_s)

    def writable(self) -> None:
        """Epoll told that TCP takes more.

        Raises:
            LinkError: the connection has ended.
        """
        data, self._pending = self._pending, b""
        self._interest()
        self._write(data)

    def readable(self, now_s: float) -> bytes:
        """Epoll told that something came: what is there for the device now, at most 64 kB.

        Raises:
            LinkError: the connection has ended.
        """
        if self.sock is None or self._ended:
            return b""
        try:
            size = self.sock.recv_into(_BUFFER)
            why = _CLOSED
        except BlockingIOError:
            return b""
        except OSError as error:
            size, why = 0, _words(error)
        if self.link is None:
            if not size:
                raise LinkError(why)
            self._counters.received_bytes += size
            return self._open_bytes(bytes(_VIEW[:size]), now_s)
        self._counters.received_bytes += size
        if not size:
            self._ended = why
            with contextlib.suppress(OSError):
                self._epoll.unregister(self.sock.fileno())  # level-triggered: it would be told for ever
        if self._down is None:
            self._down = deque()
        due_s = self.link.down(now_s, size)
        self._down.append((due_s, bytes(_VIEW[:size])))
        self._down_bytes += size
        if size and self._down_bytes > DOWN_BUFFER:
            self._interest()
        if len(self._down) == 1:
            self._due(self._index, DOWN, due_s)
        return b""

    def come_up(self, now_s: float) -> None:
        """The link has carried something to the broker.

        Raises:
            LinkError: the connection has ended.
        """
        up = self._up
        while up and up[0][0] <= now_s:
            self._write(up.popleft()[1])
        if up:
            self._due(self._index, UP, up[0][0])

    def come_down(self, now_s: float) -> bytes:
        """The link has brought something to the device: all of it.

        Raises:
            LinkError: the connection has ended, and nothing came before.
        """
        down = self._down
        parts: list[bytes] = []
        was_full = self._down_bytes > DOWN_BUFFER
        while down and down[0][0] <= now_s:
            if not down[0][1] and not parts:
                raise LinkError(self._ended or _CLOSED)
            if not down[0][1]:
                break  # the end comes by itself, after what came before was read
            data = down.popleft()[1]
            self._down_bytes -= len(data)
            parts.append(data)
        if down:
            self._due(self._index, DOWN, down[0][0])
        if was_full and self._down_bytes <= DOWN_BUFFER and not self._ended:
            self._interest()
        data = b"".join(parts)
        return self._open_bytes(data, now_s) if data else data

    def detach(self) -> socket.socket | None:
        """Take the socket out of epoll and away from here."""
        sock, self.sock = self.sock, None
        self.open = False
        if sock is not None:
            with contextlib.suppress(OSError):  # not registered: it failed at once, or its end was seen
                self._epoll.unregister(sock.fileno())
        return sock

    def _open_bytes(self, data: bytes, now_s: float) -> bytes:
        if self._secure is None:
            return data
        plain, answer = self._secure.unwrap(data)
        if answer:
            self._transmit(answer, now_s)
        return plain

    def _transmit(self, data: bytes, now_s: float) -> None:
        if not data:
            return
        if self.link is None:
            self._write(data)
            return
        due_s = self.link.up(now_s, len(data))
        if self._up is None:
            self._up = deque()
        self._up.append((due_s, data))
        if len(self._up) == 1:
            self._due(self._index, UP, due_s)

    def _write(self, data: bytes) -> None:
        if self.sock is None or self._ended:
            return
        if self._pending:
            self._pending += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if self.link is not None:
                return  # the device learns of it when the link brings the end
            raise LinkError(_words(error)) from error
        self._counters.sent_bytes += sent
        if sent < len(data):
            self._pending = data[sent:]
            self._interest()

    def _interest(self) -> None:
        """Tell epoll what to wait for."""
        if self.sock is None or self._ended:
            return
        wanted = select.EPOLLOUT if self._pending else 0
        if self._down_bytes <= DOWN_BUFFER:
            wanted |= select.EPOLLIN
        self._epoll.modify(self.sock.fileno(), wanted)


class _Secure:
    """TLS between the device and its link, so that the link carries what the radio would."""

    __slots__ = ("_in", "_open", "_out", "_tls", "_waiting")

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._open = False
        self._waiting = b""  # written before the handshake was done

    def begin(self) -> bytes:
        """The first bytes of the handshake."""
        self._shake()
        return self._out.read()

    def wrap(self, plain: bytes) -> bytes:
        """What goes to the broker; empty before the handshake is done."""
        if self._open:
            self._tls.write(plain)
        else:
            self._waiting += plain
        return self._out.read()

    def unwrap(self, data: bytes) -> tuple[bytes, bytes]:
        """(what the broker said, what TLS itself answers).

        Raises:
            LinkError: the handshake or a record failed.
        """
        self._in.write(data)
        parts: list[bytes] = []
        try:
            if not self._open:
                self._shake()
            while self._open:
                part = self._tls.read(65_536)
                if not part:
                    break
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError as error:
            raise LinkError(_CLOSED) from error
        except ssl.SSLError as error:
            raise LinkError(f"tls: {error.reason or error}".lower().replace("_", " ")) from error
        return b"".join(parts), self._out.read()

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        self._open = True
        if self._waiting:
            self._tls.write(self._waiting)
            self._waiting = b""


def reset(sock: socket.socket) -> None:
    """Close a socket as a crash would: the peer gets RST, nothing is left in TIME_WAIT."""
    with contextlib.suppress(OSError):  # it is being closed anyway
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    sock.close()


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
