"""A TCP server for tests that speaks to MQTT clients byte by byte, as a broker never would on its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from servers import free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self


class RawBroker:
    """Calls `serve(socket)` for each connection, on a thread of its own; an AssertionError in it fails the test.

    Attributes:
        port: on loopback.
        connections: how many came.
    """

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self.port = free_port()
        self.connections = 0
        self._failed: list[BaseException] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        if self._failed and kind is None:
            raise self._failed[0]

    def wait(self, predicate: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Poll until it holds."""
        wait_for(lambda: self._failed or predicate(), timeout_s, "the raw broker's connection")
        if self._failed:
            raise self._failed[0]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(20)
            self._sockets.append(sock)
            self.connections += 1
            thread = threading.Thread(target=self._one, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _one(self, sock: socket.socket) -> None:
        try:
            self._serve(sock)
        except (OSError, StopIteration):
            pass  # the client left
        except Exception as error:  # noqa: BLE001  # it is raised again on the test's thread
            self._failed.append(error)
        finally:
            sock.close()


def packets_of(sock: socket.socket) -> Iterator[bytes]:
    """Whole packets from a socket, until its end."""
    rest = b""
    while True:
        while (size := _whole(rest)) is not None:
            yield rest[:size]
            rest = rest[size:]
        data = sock.recv(65_536)
        if not data:
            return
        rest += data


def _whole(data: bytes) -> int | None:
    length = 0
    for i, byte in enumerate(data[1:5]):
        length += (byte & 127) << (7 * i)
        if byte < 128:
            size = i + 2 + length
            return size if size <= len(data) else None
    return None


def connack(properties: bytes = b"") -> bytes:
    """CONNACK of success."""
    return bytes((0x20, 3 + len(properties), 0, 0, len(properties))) + properties


def suback(subscribe: bytes, reason: int = 1) -> bytes:
    """SUBACK to a SUBSCRIBE of ours with one subscription."""
    return bytes((0x90, 4)) + subscribe[2:4] + bytes((0, reason))
