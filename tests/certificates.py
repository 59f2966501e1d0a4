"""Certificates for tests, made on the spot: one that signs itself, or an authority with servers, clients and mistakes."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key; PEM files."""
    now = dt.datetime.now(dt.timezone.utc)
    key = ec.generate_private_key(ec.SECP256R1())
    made = _sign("127.0.0.1", "127.0.0.1", key, key, (now - HOUR, now + HOUR), "127.0.0.1")
    cert_file, key_file = folder / "server.pem", folder / "server.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    _write_key(key_file, key)
    key_file.chmod(0o644)
    return cert_file, key_file


class Authority:
    """A CA and what it signs, in one folder: `ca.pem`, `<name>.pem`, `<name>.key`."""

    def __init__(self, folder: Path, name: str = "test ca") -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.timezone.utc)
        made = _sign(name, name, self._key, self._key, (now - HOUR, now + 30 * DAY), None)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        host: str = "127.0.0.1",
        ends_in: dt.timedelta = 30 * DAY,
        subject: str | None = None,
    ) -> tuple[Path, Path]:
        """Certificate and key; a second call under the same name replaces them.

        Args:
            name: of the files.
            host: DNS name or address that it is valid for.
            ends_in: from now; negative: it has ended.
            subject: its common name; `name` by default.
        """
        now = dt.datetime.now(dt.timezone.utc)
        key = ec.generate_private_key(ec.SECP256R1())
        span = (min(now, now + ends_in) - HOUR, now + ends_in)
        made = _sign(subject or name, self._name, key, self._key, span, host)
        cert_file, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        _write_key(key_file, key)
        return cert_file, key_file


def _sign(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    span: tuple[dt.datetime, dt.datetime],
    host: str | None,
) -> x509.Certificate:
    """One certificate; `host` None: an authority's."""
    builder = x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name(issuer))
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(span[0]).not_valid_after(span[1])
    # Key identifiers: from Python 3.13 a certificate without them is refused (VERIFY_X509_STRICT).
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(signed_by, critical=False)
    if host is None:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        may = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False) | {
            "encipher_only": False,
            "decipher_only": False,
            "digital_signature": True,
        }
        builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **may), critical=True)
    else:
        try:
            named: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            named = x509.DNSName(host)
        builder = builder.add_extension(x509.SubjectAlternativeName([named]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    plain = serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    path.chmod(0o600)
