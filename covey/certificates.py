"""What a certificate says of itself: subject, issuer, validity. Reads the few fields that a person must be told.

Pure: bytes in, fields out. It verifies nothing (no signature, no chain): that is TLS's work. Written by hand, because
the standard library shows only certificates that it has verified, and devices and gateways carry no further library.
"""

from __future__ import annotations

import binascii
import datetime as dt
import re
import ssl
from typing import NamedTuple

# X.690: the tags met here
_SEQUENCE, _SET = 0x30, 0x31
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_VERSION = 0xA0  # [0] EXPLICIT, RFC 5280 section 4.1
_TEXT = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}

# RFC 4519 and RFC 4514 section 3: object identifiers of the parts of a name, DER content bytes
_PARTS = {b"\x55\x04\x03": "CN", b"\x55\x04\x0a": "O", b"\x55\x04\x0b": "OU", b"\x55\x04\x06": "C"}

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class Certificate(NamedTuple):
    """The parts of a certificate that decide whether it is the one meant, and when."""

    subject: str  # "CN=gateway-1, O=example"; a name without parts we know is ""
    issuer: str
    not_before: dt.datetime  # UTC
    not_after: dt.datetime

    def validity_problem(self, now: dt.datetime) -> str:
        """Why it is not valid at `now` (aware), with the date; "" when it is."""
        if now > self.not_after:
            return f"expired {stamp(self.not_after)}"
        if now < self.not_before:
            return f"not valid before {stamp(self.not_before)}; is this clock right?"
        return ""


def stamp(when: dt.datetime) -> str:
    """A date as messages show it: `2026-11-23 10:00 UTC`."""
    return when.astimezone(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def from_pem(content: bytes) -> list[Certificate]:
    """Every certificate of a PEM file, in order; other blocks (keys) are passed over.

    Raises:
        ValueError: there is none, or one cannot be read.
    """
    found = _PEM.findall(content)
    if not found:
        raise ValueError("no PEM certificate in it")
    try:
        return [from_der(ssl.PEM_cert_to_DER_cert(part.decode("ascii"))) for part in found]
    except (UnicodeDecodeError, binascii.Error) as error:
        raise ValueError("a certificate in it is damaged") from error


def from_der(content: bytes) -> Certificate:
    """One certificate (RFC 5280, section 4.1) from its DER bytes.

    Raises:
        ValueError: these are not the bytes of a certificate.
    """
    try:
        certificate, _ = _take(content, _SEQUENCE)
        body, _ = _take(certificate, _SEQUENCE)
        if body[0] == _VERSION:
            _, body = _take(body, _VERSION)
        for _ in range(2):  # serialNumber, signature
            _, body = _take(body)
        issuer, body = _take(body, _SEQUENCE)
        validity, body = _take(body, _SEQUENCE)
        subject, _ = _take(body, _SEQUENCE)
        before_tag = validity[0]
        before, validity = _take(validity)
        after_tag = validity[0]
        after, _ = _take(validity)
        return Certificate(_name(subject), _name(issuer), _time(before_tag, before), _time(after_tag, after))
    except (IndexError, ValueError) as error:
        raise ValueError("a certificate in it is damaged") from error


def _take(data: bytes, tag: int | None = None) -> tuple[bytes, bytes]:
    """(content of the first value, what follows it); definite lengths only, as DER demands (X.690, 10.1)."""
    if tag is not None and data[0] != tag:
        raise ValueError(f"tag {tag:#x} expected, {data[0]:#x} received")
    length, begin = data[1], 2
    if length & 0x80:
        begin = 2 + (length & 0x7F)
        length = int.from_bytes(data[2:begin], "big")
    end = begin + length
    if end > len(data):
        raise ValueError("bytes are missing")
    return data[begin:end], data[end:]


def _name(sequence: bytes) -> str:
    """A distinguished name; parts that messages do not need are left out."""
    parts: list[str] = []
    while sequence:
        relative, sequence = _take(sequence, _SET)
        while relative:
            pair, relative = _take(relative, _SEQUENCE)
            kind, value = _take(pair)
            if kind in _PARTS:
                text, _ = _take(value)
                decoded = text.decode(_TEXT.get(value[0], "latin-1"), "replace")
                parts.append(f"{_PARTS[kind]}={''.join(c if c.isprintable() else '?' for c in decoded)}")
    return ", ".join(parts)


def _time(tag: int, content: bytes) -> dt.datetime:
    """UTCTime or GeneralizedTime, both ending in Z (RFC 5280, 4.1.2.5)."""
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # years 50 to 99 are of the 20th century
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("a time expected")
    return dt.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.timezone.utc)
