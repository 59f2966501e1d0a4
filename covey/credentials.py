"""How one side of a role proves who it is: CA, certificate, key, user and password file, for MQTT or the Kafka API.

Tells every mistake in the files at once, and makes of them what the client libraries take. Secrets come from files, are
read when a connection is made (so that a replaced file is found), and are never part of a message or a log line.
Connects to nothing, imports no client library.
"""

from __future__ import annotations

import datetime as dt
import os
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from covey.certificates import Certificate, from_pem
from covey.errors import ConfigError

SYSTEM = "system"  # as a CA: the machine's own trust store, for brokers with a public certificate
_MAX_FILE_BYTES = 4 * 1024 * 1024  # a bundle of every public CA is about 0.2 MB
_EXPIRES_SOON = dt.timedelta(days=7)

if TYPE_CHECKING:
    from collections.abc import Mapping

# Names of OpenSSL's reasons (ssl.SSLError.reason) that a person can mend.
_TLS_REASONS = (
    ("CERTIFICATE_REQUIRED", "the broker asks for a client certificate: set {side}_cert and {side}_key"),
    ("HANDSHAKE_FAILURE", "the broker ends the handshake: no client certificate ({side}_cert), or no cipher in common"),
    ("UNKNOWN_CA", "the broker does not know the CA of {side}_cert"),
    ("ALERT_CERTIFICATE_EXPIRED", "the broker says that {side}_cert has expired"),
    ("ALERT_CERTIFICATE_REVOKED", "the broker says that {side}_cert is revoked"),
    ("ALERT_BAD_CERTIFICATE", "the broker refuses {side}_cert"),
    ("ALERT_CERTIFICATE_UNKNOWN", "the broker refuses {side}_cert"),
    ("WRONG_VERSION_NUMBER", "no TLS is spoken there: is it the port for plain connections?"),
    ("RECORD_LAYER_FAILURE", "no TLS is spoken there: is it the port for plain connections?"),
    ("UNEXPECTED_EOF", "connection closed in the middle of TLS: is TLS spoken there, is {side}_cert accepted?"),
)

Print = tuple[tuple[int, int, int], ...]


class Credentials(NamedTuple):
    """The keys `<side>_ca`, `<side>_cert`, `<side>_key`, `<side>_user`, `<side>_password_file`; "" where not given."""

    side: str  # mqtt or kafka
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""

    @classmethod
    def of(cls, side: str, values: Mapping[str, object]) -> Credentials:
        """From a role's keys `<side>_ca`, ..."""
        return cls(side, *(str(values[f"{side}_{part}"] or "") for part in cls._fields[1:]))

    def rules(self) -> list[str]:
        """What is wrong between the keys, without looking at the files."""
        side, problems = self.side, list[str]()
        if bool(self.cert) != bool(self.key):
            problems.append(f"{side}_cert and {side}_key: both or neither expected")
        if self.cert and not self.ca:
            problems.append(f"{side}_cert: {side}_ca expected beside it")
        if self.password_file and not self.user:
            problems.append(f"{side}_password_file: {side}_user expected beside it")
        if side == "kafka" and self.user and not self.password_file:  # MQTT knows users without a password
            problems.append("kafka_user: kafka_password_file expected beside it")
        return problems

    def problems(self, now: dt.datetime | None = None) -> list[str]:
        """What is wrong with the files: each that is missing, unreadable, not what it should be, or out of date.

        Args:
            now: aware; the clock's by default.
        """
        now = now or dt.datetime.now(dt.timezone.utc)
        found: list[str] = []
        if self.ca and self.ca != SYSTEM:
            try:
                chain = _certificates(self.ca)
                told = [c.validity_problem(now) for c in chain]
                if all(told):  # an old one beside a good one is how a CA is changed
                    found.append(f"{self.side}_ca {self.ca}: {_who(chain[0])}{told[0]}")
            except ValueError as error:
                found.append(f"{self.side}_ca {self.ca}: {error}")
        found += self._pair_problems(now)
        if self.password_file:
            try:
                _secret(self.password_file)
            except ValueError as error:
                found.append(f"{self.side}_password_file {self.password_file}: {error}")
        return found

    def warnings(self, now: dt.datetime | None = None) -> list[str]:
        """What works and should not stay: secrets that every user may read, a password in clear, a near end."""
        now = now or dt.datetime.now(dt.timezone.utc)
        told: list[str] = []
        for name, path in (("key", self.key), ("password_file", self.password_file)):
            try:
                mode = stat.S_IMODE(Path(path).stat().st_mode) if path else 0
            except OSError:
                continue  # `problems` tells it
            if mode & 0o007:
                told.append(f"{self.side}_{name} {path}: every user may read it (mode {mode:04o}): chmod 600")
        if self.password_file and not self.ca:
            told.append(f"{self.side}_password_file: without {self.side}_ca the connection is not encrypted")
        if self.cert:
            try:
                leaf = _certificates(self.cert)[0]
            except ValueError:
                return told
            if now < leaf.not_after < now + _EXPIRES_SOON:
                told.append(f"{self.side}_cert {self.cert}: {_who(leaf)}expires {leaf.not_after:%Y-%m-%d %H:%M UTC}")
        return told

    def context(self) -> ssl.SSLContext | None:
        """TLS as configured, read from the files now; None without a CA.

        Raises:
            ConfigError: a file is missing or is not what it should be; names each.
        """
        if not self.ca:
            return None
        try:
            context = ssl.create_default_context(cafile=None if self.ca == SYSTEM else self.ca)
            if self.cert:
                context.load_cert_chain(self.cert, self.key, password=_no_passphrase)
        except (OSError, ValueError) as error:  # a missing file, or ssl.SSLError
            why = "; ".join(self.problems()) or f"{self.side}_ca, {self.side}_cert, {self.side}_key: {error}"
            raise ConfigError(why) from error
        return context

    def password(self) -> str | None:
        """The password, read now; None without a file.

        Raises:
            ConfigError: it cannot be read.
        """
        if not self.password_file:
            return None
        try:
            return _secret(self.password_file)
        except ValueError as error:
            raise ConfigError(f"{self.side}_password_file {self.password_file}: {error}") from error

    def explain(self, error: BaseException) -> str:
        """What a failed connection means in terms of these keys; other errors in their own words."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._explain_certificate(error)
        if isinstance(error, ssl.SSLError):
            reason = "UNEXPECTED_EOF" if isinstance(error, ssl.SSLEOFError) else str(error.reason or "").upper()
            if "BAD_CERTIFICATE" in reason and not self.cert:
                reason = "CERTIFICATE_REQUIRED"  # Java's TLS says it so
            meant = (meaning.format(side=self.side) for part, meaning in _TLS_REASONS if part in reason)
            return next(meant, f"TLS: {str(error.reason or error).lower().replace('_', ' ')}")
        if isinstance(error, TimeoutError):
            return "no answer in time"
        if isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError):
            return "connection closed by the other side" + (": is TLS spoken there?" if self.ca else "")
        if isinstance(error, OSError) and error.strerror:
            return error.strerror[:1].lower() + error.strerror[1:]
        return str(error)

    def fingerprint(self) -> Print:
        """Another value when a file has been replaced or written; (0, 0, 0) for one that is not there."""
        seen: list[tuple[int, int, int]] = []
        for path in (self.ca, self.cert, self.key, self.password_file):
            if path and path != SYSTEM:
                try:
                    there = Path(path).stat()
                    seen.append((there.st_ino, there.st_mtime_ns, there.st_size))
                except OSError:
                    seen.append((0, 0, 0))
        return tuple(seen)

    def _explain_certificate(self, error: ssl.SSLCertVerificationError) -> str:
        # OpenSSL, x509_vfy.h: 10 expired, 9 not yet valid, 62 and 64 name or address, the rest the chain
        if error.verify_code == 10:
            return "the broker's certificate has expired"
        if error.verify_code == 9:
            return "the broker's certificate is not valid yet; is this clock right?"
        if error.verify_code in (62, 64):
            return f"the broker's certificate is of another host: {error.verify_message.rstrip('.')}"
        return f"the broker's certificate is not signed by {self.side}_ca {self.ca}: {error.verify_message}"

    def _pair_problems(self, now: dt.datetime) -> list[str]:
        found: list[str] = []
        if self.cert:
            try:
                leaf = _certificates(self.cert)[0]
                told = leaf.validity_problem(now)
                if told:
                    found.append(f"{self.side}_cert {self.cert}: {_who(leaf)}{told}")
            except ValueError as error:
                found.append(f"{self.side}_cert {self.cert}: {error}")
        unread = bool(found) and "expired" not in found[0] and "not valid before" not in found[0]
        if self.key:
            try:
                _check_key(self.key)
            except ValueError as error:
                return [*found, f"{self.side}_key {self.key}: {error}"]
        if self.cert and self.key and not unread:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self.cert, self.key, password=_no_passphrase)
            except (OSError, ValueError) as error:
                fits = getattr(error, "reason", "") != "KEY_VALUES_MISMATCH"
                why = f"cannot be used: {error}" if fits else f"does not belong to {self.side}_cert {self.cert}"
                found.append(f"{self.side}_key {self.key}: {why}")
        return found


def kafka_settings(credentials: Credentials, mechanism: str) -> dict[str, str]:
    """Settings of librdkafka for a secured Kafka API, the password read from its file now; {} for an open one.

    Args:
        credentials: of side kafka.
        mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; used with a user.

    Raises:
        ConfigError: the password file cannot be read.

    Source: librdkafka, CONFIGURATION.md.
    """
    tls, login = bool(credentials.ca), bool(credentials.user)
    settings: dict[str, str] = {}
    if tls or login:
        settings["security.protocol"] = ("sasl_" if login else "") + ("ssl" if tls else "plaintext")
    if tls:
        # the wheels' OpenSSL is their own and does not know where the machine keeps its trust store: probe
        settings["ssl.ca.location"] = "probe" if credentials.ca == SYSTEM else credentials.ca
        settings["ssl.endpoint.identification.algorithm"] = "https"  # the certificate must name the host
    if credentials.cert:
        settings |= {"ssl.certificate.location": credentials.cert, "ssl.key.location": credentials.key}
    if login:
        password = credentials.password() or ""
        settings |= {"sasl.mechanism": mechanism, "sasl.username": credentials.user, "sasl.password": password}
    return settings


def _certificates(path: str) -> list[Certificate]:
    return from_pem(_read(path))


def _check_key(path: str) -> None:
    content = _read(path)
    if b"PRIVATE KEY-----" not in content:
        raise ValueError("no PEM private key in it")
    if b"ENCRYPTED" in content:
        raise ValueError("is encrypted: a key without passphrase expected, in a file that only this user may read")


def _secret(path: str) -> str:
    try:
        text = _read(path).decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8 text") from error
    if not text:
        raise ValueError("is empty")
    if "\n" in text or "\0" in text:
        raise ValueError("one line expected, more found")
    return text


def _read(path: str) -> bytes:
    """The file's bytes; ValueError says in a few words why not."""
    try:
        # A pipe would hold us for ever, and could not be read again at the next connection.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            there = os.fstat(file.fileno())
            if not stat.S_ISREG(there.st_mode):
                raise ValueError("a file expected, something else found")
            if there.st_size > _MAX_FILE_BYTES:
                raise ValueError(f"at most {_MAX_FILE_BYTES} bytes expected, {there.st_size} found")
            return file.read(_MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise ValueError("no such file") from error
    except IsADirectoryError as error:
        raise ValueError("a file expected, a folder found") from error
    except PermissionError as error:
        raise ValueError("this user may not read it") from error
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error


def _who(certificate: Certificate) -> str:
    return f"{certificate.subject}: " if certificate.subject else ""


def _no_passphrase() -> str:
    """In place of OpenSSL's own question on the terminal."""
    raise ValueError("the key is encrypted: a key without passphrase expected")
