"""Byte links that never block who reads them: UDP sockets, and a serial port on a thread of its own.

What cannot be opened now (no such device, no permission, port in use) is `problem`, tried again with backoff. Bytes that nobody
takes are dropped, the oldest first, and counted. They know no protocol.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from covey.errors import MissingExtra
from covey.runtime import Backoff

if TYPE_CHECKING:
    from typing import Any

_DATAGRAM_BYTES = 8192  # senders of MAVLink keep below one packet of the network
_MOST_DATAGRAMS = 2048  # taken at one read
_KERNEL_BYTES = 4 << 20  # receive buffer asked for: a stall of the reader costs nothing
_MOST_BYTES = 1 << 20  # of a serial port that wait for the reader
_CHUNK_BYTES = 4096
_WAIT_S = 0.1  # of the serial thread, for bytes and for its end
_JOIN_S = 2.0


class Chunk(NamedTuple):
    """Bytes as they came."""

    data: bytes
    arrived_s: float  # monotonic
    sender: object  # bytes of two senders do not belong together


class ByteLink(Protocol):
    """A link.

    Attributes:
        label: for messages.
        problem: one line while it does not work.
        dropped: chunks that nobody took in time.
    """

    label: str
    problem: str
    dropped: int

    def read(self, now_s: float) -> list[Chunk]:
        """What has come; never blocks."""
        ...

    def write(self, data: bytes) -> bool:
        """Send to the other end; False: not now."""
        ...

    def close(self) -> None:
        """Give everything free."""
        ...


class Udp:
    """A socket that listens at an address, or (`out`) talks to one first."""

    def __init__(self, host: str, port: int, *, out: bool = False) -> None:
        """Opened at the first `read`."""
        self.label = f"UDP {'to ' if out else ''}{host}:{port}"
        self.problem = ""
        self.dropped = 0
        self._where = (host, port)
        self._out = out
        self._socket: socket.socket | None = None
        self._peer: Any = None
        self._backoff = Backoff(0.2, 5.0)
        self._next_try_s = 0.0

    @property
    def address(self) -> tuple[str, int]:
        """Where it is bound; for port 0, the one that the system chose."""
        if self._socket is None:
            return self._where
        name = self._socket.getsockname()
        return str(name[0]), int(name[1])

    def read(self, now_s: float) -> list[Chunk]:
        """Datagrams that wait."""
        if self._socket is None and not self._open(now_s):
            return []
        assert self._socket is not None  # noqa: S101  # for the type checker: `_open` made it
        out: list[Chunk] = []
        for _ in range(_MOST_DATAGRAMS):
            try:
                data, sender = self._socket.recvfrom(_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except ConnectionRefusedError:  # nobody listens yet where we sent to
                continue
            except OSError as error:
                self._fail(error, now_s)
                break
            self._peer = self._peer if self._out else sender
            out.append(Chunk(data, now_s, sender))
        return out

    def write(self, data: bytes) -> bool:
        """To the peer: who was asked for, or who spoke last."""
        if self._socket is None or self._peer is None:
            return False
        try:
            self._socket.sendto(data, self._peer)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self, now_s: float) -> bool:
        if now_s < self._next_try_s:
            return False
        host, port = self._where
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            link = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            self._fail(error, now_s)
            return False
        self._socket = link
        try:
            link.setblocking(False)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BYTES)
            if self._out:
                self._peer = address
            else:
                link.bind(address)
        except OSError as error:
            self._fail(error, now_s)
            return False
        self.problem = ""
        self._backoff.reset()
        return True

    def _fail(self, error: OSError, now_s: float) -> None:
        self.close()
        self.problem = f"{self.label}: {error.strerror or error}"
        self._next_try_s = now_s + self._backoff.next_s()


class Serial:
    """A serial port; a thread opens it, reads it, and opens it again when it is gone."""

    def __init__(self, device: str, baud: int) -> None:
        """The thread begins at once.

        Raises:
            MissingExtra: pyserial is not installed.
        """
        try:
            import serial
        except ImportError as error:
            raise MissingExtra("mavlink", "pyserial") from error
        self.label = device
        self.problem = f"{device}: not open yet"
        self.dropped = 0
        self._library = serial
        self._device, self._baud = device, baud
        self._chunks: deque[Chunk] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._port: Any = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serial", daemon=True)
        self._thread.start()

    def read(self, now_s: float) -> list[Chunk]:  # noqa: ARG002  # as every link
        """What the thread has read."""
        with self._lock:
            out, self._chunks, self._bytes = list(self._chunks), deque(), 0
        return out

    def write(self, data: bytes) -> bool:
        """Write what the port takes at once."""
        port = self._port
        if port is None:
            return False
        try:
            return os.write(port.fileno(), data) == len(data)
        except (OSError, self._library.SerialException):
            return False

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        backoff = Backoff(0.2, 5.0)
        while not self._stop.is_set():
            try:
                with self._library.Serial(self._device, self._baud, timeout=_WAIT_S, exclusive=True) as port:
                    self._port, self.problem = port, ""
                    backoff.reset()
                    self._listen(port)
            except (OSError, ValueError, self._library.SerialException) as error:
                self.problem = f"{self._device}: {_why(error)}"
            finally:
                self._port = None
            self._stop.wait(backoff.next_s())

    def _listen(self, port: Any) -> None:
        while not self._stop.is_set():
            data = port.read(1)  # waits for the first byte, a while
            if not data:
                continue
            data += port.read(min(port.in_waiting, _CHUNK_BYTES))
            with self._lock:
                self._chunks.append(Chunk(data, time.monotonic(), None))
                self._bytes += len(data)
                while self._bytes > _MOST_BYTES:
                    self._bytes -= len(self._chunks.popleft().data)
                    self.dropped += 1


def _why(error: Exception) -> str:
    """What the system said, without pyserial's words around it."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error).splitlines()[0]
