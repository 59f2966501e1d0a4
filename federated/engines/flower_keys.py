"""Keys and certificates of engine `flower`: a CA for one fleet, the SuperLink's certificate, node keys, the signer of apps.

Everything is made and read here, offline, by the library that Flower itself uses; nothing here talks to anybody. Private
keys are written 0600 and never over another one.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
import os
import stat
import time
from typing import TYPE_CHECKING, Annotated

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Meta, Struct

from covey.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_CA_LIFE = dt.timedelta(days=3650)
_SERVER_LIFE = dt.timedelta(
    days=397
)  # what public authorities keep to; made anew at the start that finds it near its end
_RENEW = dt.timedelta(days=30)
_BACKDATED = dt.timedelta(hours=1)  # devices' clocks differ


class SignedApp(Struct, frozen=True, forbid_unknown_fields=True):
    """The app that nodes are asked to run, and who vouches for it; a JSON file that the signer hands to the SuperLink."""

    fab: bytes  # base64 in JSON
    signer: Annotated[str, Meta(pattern="^covey-[0-9a-f]{16}$")]
    signed_at: Annotated[int, Meta(ge=0)]  # seconds since the epoch
    signature: str  # base64url, over signed_at (8 bytes, big endian) and the sha256 of the app: Flower's own form

    def check(self, public: ed25519.Ed25519PublicKey) -> bool:
        """Whether this signer signed it."""
        try:
            public.verify(base64.urlsafe_b64decode(self.signature), _signed_bytes(self.fab, self.signed_at))
        except (InvalidSignature, ValueError):
            return False
        return True


def make_node_key(path: Path) -> Path:
    """Make a device's key (P-384, OpenSSH form) and `<path>.pub`; returns the public one's path.

    Raises:
        UsageError: one of the files is there already, or cannot be written.
    """
    return _make_pair(path, ec.generate_private_key(ec.SECP384R1()))


def make_signer_key(path: Path) -> Path:
    """Make a signer's key (Ed25519, OpenSSH form) and `<path>.pub`; returns the public one's path.

    Raises:
        UsageError: one of the files is there already, or cannot be written.
    """
    return _make_pair(path, ed25519.Ed25519PrivateKey.generate())


def read_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A device's private key.

    Raises:
        UsageError: it is missing, is none, or other users may read it.
    """
    content = _read(path)
    about = path.stat()
    # systemd's credentials are root's, and show their one reader's right as the group's.
    others = 0o077 if about.st_uid == os.getuid() else 0o007
    if stat.S_IMODE(about.st_mode) & others:
        raise UsageError(f"{path}: a key that only its owner may read expected: chmod 600 {path}")
    try:
        key = serialization.load_ssh_private_key(content, None)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path}: a node's private key expected (covey federated keys node): {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{path}: a node's private key (P-384) expected, one of another kind found")
    return key


def read_node_public(path: Path) -> bytes:
    """A device's public key as the SuperLink keeps it (PEM).

    Raises:
        UsageError: it is missing or is none.
    """
    try:
        key = serialization.load_ssh_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path}: a node's public key (.pub) expected: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UsageError(f"{path}: a node's public key (P-384) expected, one of another kind found")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_signers(paths: Sequence[Path]) -> dict[str, str]:
    """Trusted signers as Flower wants them: id -> OpenSSH public key.

    Raises:
        UsageError: a file is missing or is not an Ed25519 public key.
    """
    found: dict[str, str] = {}
    for path in paths:
        content = _read(path)
        try:
            key = serialization.load_ssh_public_key(content)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError(f"{path}: a signer's public key (.pub) expected: {error}") from error
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise UsageError(f"{path}: a signer's public key (Ed25519) expected, one of another kind found")
        found[signer_id(key)] = content.decode().strip()
    return found


def signer_id(key: ed25519.Ed25519PublicKey) -> str:
    """`covey-` and the first 16 hex digits of the public key's sha256."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return f"covey-{hashlib.sha256(raw).hexdigest()[:16]}"


def sign_app(fab: bytes, key_path: Path) -> SignedApp:
    """Vouch for an app.

    Raises:
        UsageError: the key is missing or is not a signer's.
    """
    try:
        key = serialization.load_ssh_private_key(_read(key_path), None)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{key_path}: a signer's private key expected (covey federated keys signer): {error}"
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(f"{key_path}: a signer's private key (Ed25519) expected, one of another kind found")
    at = int(time.time())
    signature = base64.urlsafe_b64encode(key.sign(_signed_bytes(fab, at))).decode()
    return SignedApp(fab, signer_id(key.public_key()), at, signature)


def read_app(path: Path) -> SignedApp:
    """A signed app's file.

    Raises:
        UsageError: it is missing or is none.
    """
    try:
        return msgspec.json.decode(_read(path), type=SignedApp)
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: a signed app expected (covey federated keys sign): {error}") from error


class Tls(Struct, frozen=True):
    """Files of the SuperLink's TLS."""

    ca: str
    cert: str
    key: str


def own_tls(folder: Path, hosts: Sequence[str]) -> Tls:
    """A CA and a certificate for these hosts in `folder`, made where they are missing, near their end, or of other hosts.

    The CA stays as long as it lives, for the devices hold it; only the server's certificate is made anew.

    Raises:
        UsageError: the folder cannot be written, or what is in it cannot be read.
    """
    ca_path, ca_key_path = folder / "ca.pem", folder / "ca.key"
    cert_path, key_path = folder / "superlink.pem", folder / "superlink.key"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not ca_path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            made = _certificate("covey superlink ca", key, None, _CA_LIFE, ())
            _write_private(ca_key_path, _pem(key))
            ca_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        if not (cert_path.exists() and key_path.exists() and _serves(cert_path, hosts)):
            signer = serialization.load_pem_private_key(ca_key_path.read_bytes(), None)
            authority = x509.load_pem_x509_certificate(ca_path.read_bytes())
            if not isinstance(signer, ec.EllipticCurvePrivateKey):
                raise UsageError(f"{ca_key_path}: the CA's key (P-256) expected, one of another kind found")
            key = ec.generate_private_key(ec.SECP256R1())
            made = _certificate("covey superlink", key, (authority, signer), _SERVER_LIFE, hosts)
            key_path.unlink(missing_ok=True)
            _write_private(key_path, _pem(key))
            cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be made: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{folder}: keys and certificates expected in it: {error}") from error
    return Tls(str(ca_path), str(cert_path), str(key_path))


def hosts_of(cert: Path) -> set[str]:
    """Names and addresses that a certificate is valid for.

    Raises:
        UsageError: no such file, or no certificate in it.
    """
    try:
        return _names(x509.load_pem_x509_certificate(_read(cert)))
    except ValueError as error:
        raise UsageError(f"{cert}: a PEM certificate expected: {error}") from error


def _serves(cert_path: Path, hosts: Sequence[str]) -> bool:
    made = x509.load_pem_x509_certificate(cert_path.read_bytes())
    left = made.not_valid_after_utc - dt.datetime.now(dt.timezone.utc)
    return left > _RENEW and set(hosts) <= _names(made)


def _names(made: x509.Certificate) -> set[str]:
    try:
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(one.value) for one in names}


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
    life: dt.timedelta,
    hosts: Sequence[str],
) -> x509.Certificate:
    """A certificate; without an authority it is one itself."""
    now = dt.datetime.now(dt.timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(authority[0].subject if authority else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=0 if authority is None else None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    if authority is None:
        made = made.add_extension(_usage(sign_certificates=True), True)
        return made.sign(key, hashes.SHA256())
    made = (
        made.add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority[1].public_key()), False)
        .add_extension(_usage(sign_certificates=False), True)
    )
    return made.sign(authority[1], hashes.SHA256())


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _make_pair(path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> Path:
    public_path = path.with_name(f"{path.name}.pub")
    for one in (path, public_path):
        if one.exists():
            raise UsageError(f"{one}: no such file yet expected, it is there: a key is never written over")
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_private(path, private)
        public_path.write_bytes(public + b" " + path.stem.encode() + b"\n")
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be written: {error.strerror}") from error
    return public_path


def _write_private(path: Path, content: bytes) -> None:
    """Made 0600, not changed to it afterwards; fails where it exists."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _signed_bytes(fab: bytes, at: int) -> bytes:
    return at.to_bytes(8, "big") + hashlib.sha256(fab).digest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
