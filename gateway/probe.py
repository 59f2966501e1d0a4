"""The first steps to any broker, for `covey gateway check`: name, TCP, TLS; each told as one line, with a fix.

Bounded in time whatever is at the other end. Sends nothing of its own after the TLS handshake.
"""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import time
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from covey.certificates import Certificate, from_der, stamp
from covey.errors import ConfigError

if TYPE_CHECKING:
    from covey.credentials import Credentials

STEP_S = 5.0  # one question and its answer
_VERDICT_S = 0.3
_SOON = dt.timedelta(days=7)


class Finding(Struct, frozen=True):
    """One line of the check."""

    what: str
    state: Literal["ok", "warn", "FAIL"]
    detail: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        """Whether a gateway can run with it."""
        return self.state != "FAIL"


def reach(side: str, address: tuple[str, int], who: Credentials, found: list[Finding]) -> socket.socket | None:
    """Connect, with TLS where configured; None when that failed. What was seen is appended to `found`.

    Args:
        side: mqtt or kafka, the first word of the lines.
        address: host and port.
        who: CA, certificate and key; read from their files.
        found: grows by one or two lines.
    """
    where = f"{address[0]}:{address[1]}"
    try:
        sock = _connect(address)
    except OSError as error:  # gaierror and timeouts, too
        fix = f"is the broker up, and is {side} = {where!r} its address as seen from here (firewall, name)?"
        found.append(Finding(f"{side} tcp", "FAIL", f"{where}: {who.explain(error)}", fix))
        return None
    found.append(Finding(f"{side} tcp", "ok", f"{where}: connected"))
    if not who.ca:
        return sock
    try:
        context = who.context()
        if context is None:
            return sock
        sock = context.wrap_socket(sock, server_hostname=address[0])
        peer = from_der(sock.getpeercert(binary_form=True) or b"")
        found.append(_certificate_line(side, str(sock.version()), peer))
        return sock
    except (OSError, ValueError, ConfigError) as error:
        sock.close()
        seen = _stranger(address) if isinstance(error, ssl.SSLCertVerificationError) else ""
        found.append(Finding(f"{side} tls", "FAIL", f"{who.explain(error)}{seen}", _tls_fix(side, error)))
        return None


def _connect(address: tuple[str, int]) -> socket.socket:
    sock = socket.create_connection(address, timeout=STEP_S)
    sock.settimeout(STEP_S)
    return sock


def _certificate_line(side: str, version: str, peer: Certificate) -> Finding:
    left = peer.not_after - dt.datetime.now(dt.timezone.utc)
    detail = f"{version}, {_described(peer)}"
    if left < _SOON:
        return Finding(f"{side} tls", "warn", detail, "the broker's certificate ends soon: renew it")
    return Finding(f"{side} tls", "ok", detail)


def _described(peer: Certificate) -> str:
    issued = "signed by itself" if peer.issuer == peer.subject else f"issued by {peer.issuer}"
    end = "expires" if peer.not_after > dt.datetime.now(dt.timezone.utc) else "expired"
    return f"{peer.subject or 'no name'}, {issued}, {end} {stamp(peer.not_after)}"


def _stranger(address: tuple[str, int]) -> str:
    """What the certificate that was refused says of itself; nothing is sent over this connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with _connect(address) as plain, context.wrap_socket(plain, server_hostname=address[0]) as sock:
            return f"; it is {_described(from_der(sock.getpeercert(binary_form=True) or b''))}"
    except (OSError, ValueError):
        return ""


def _tls_fix(side: str, error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (62, 64):  # x509_vfy.h: host name, address
            return f"set {side} to a name that the certificate carries, or give the broker one that names this host"
        if error.verify_code in (9, 10):
            return "renew the broker's certificate, or set this machine's clock"
        return f"set {side}_ca to the CA that signed it ({side}_ca = 'system' for a public one)"
    if isinstance(error, ssl.SSLError) and "ALERT" in str(error.reason):
        return f"see {side}_cert and {side}_key, and the CA that the broker expects of its clients"
    return f"is this the TLS port? Without TLS: leave {side}_ca out"


class Conversation:
    """Bytes to and from a peer that may say anything or nothing; every wait ends at the deadline."""

    def __init__(self, sock: socket.socket, seconds: float = STEP_S) -> None:
        self._sock = sock
        self._deadline_s = time.monotonic() + seconds
        self.received = b""

    def send(self, data: bytes) -> None:
        """Write all of it."""
        self._sock.settimeout(self._left())
        self._sock.sendall(data)

    def verdict(self) -> None:
        """Wait shortly for a refusal: in TLS 1.3 the peer judges our certificate only after the handshake.

        Whoever writes at once meets a closed connection and never reads why.

        Raises:
            OSError: the refusal.
        """
        if isinstance(self._sock, ssl.SSLSocket):
            self.more_time(_VERDICT_S)
            self.need(1)
            self.more_time(STEP_S)

    def need(self, count: int) -> bool:
        """Read until `received` has so many bytes; False when the peer closed first or the time is up.

        Raises:
            OSError: the connection broke.
        """
        while len(self.received) < count:
            if time.monotonic() >= self._deadline_s:
                return False
            self._sock.settimeout(self._left())
            try:
                data = self._sock.recv(65_536)
            except TimeoutError:
                return False
            if not data:
                return False
            self.received += data
        return True

    def more_time(self, seconds: float) -> None:
        """A new deadline."""
        self._deadline_s = time.monotonic() + seconds

    def timed_out(self) -> bool:
        """Whether the deadline has passed: the peer did not close, it was silent."""
        return time.monotonic() >= self._deadline_s - 0.05

    def stranger(self) -> str:
        """What a peer that does not answer as expected seems to speak; "" when it cannot be told.

        Web servers that wait for the end of a line are given one.
        """
        if not self.received:
            self.more_time(1.0)
            try:
                self.send(b"\r\n\r\n")
                self.need(5)
            except OSError:
                return ""
        if self.received.upper().startswith((b"HTTP/", b"<!DOC", b"<HTML")):
            return "HTTP"
        return "TLS" if self.received[:2] in (b"\x15\x03", b"\x16\x03") else ""  # RFC 8446, 5.1: alert, handshake

    def _left(self) -> float:
        return max(0.01, self._deadline_s - time.monotonic())
