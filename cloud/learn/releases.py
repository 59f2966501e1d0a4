"""The release repository: bundles as TUF targets, numbered per group, signed by one online key.

`<dir>/keys/online.pem` (0600) signs; `<dir>/repository/{metadata,targets}` is what devices fetch. Every file is written
whole and the timestamp last, so a crash between two steps leaves the repository that was there before.
Bundles are opaque here. One key signs all roles: who holds this machine holds the fleet's trust; keep root offline
where that matters (docs/architecture.md).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from msgspec import Struct
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from cloud.config import is_group
from covey.errors import StoreError, UsageError
from covey.runtime import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Part = Root | Timestamp | Snapshot | Targets

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)

# Life of each role's metadata; renewed by `refresh` when half of it is over.
LIFE: Final = {
    "root": timedelta(days=365),
    "targets": timedelta(days=90),
    "snapshot": timedelta(days=30),
    "timestamp": timedelta(days=7),
}
KEEP = 16  # newest releases a group keeps in the signed metadata: devices read at most MAX_METADATA_BYTES of it
MAX_METADATA_BYTES = 65_536
MAX_BUNDLE_BYTES = 64 * 1024 * 1024


class Release(Struct, frozen=True):
    """One numbered, signed bundle."""

    group: str
    number: int  # counts in its group from 1
    digest: str  # sha256 of the bundle file
    target: str  # TUF target path
    size_bytes: int
    created_s: float
    note: str


class Repository:
    """A TUF repository in a folder; made on first use by `create`."""

    def __init__(self, directory: Path) -> None:
        self._dir = directory
        self.public_dir = directory / "repository"
        self._metadata = self.public_dir / "metadata"
        self._targets = self.public_dir / "targets"
        self._key_path = directory / "keys" / "online.pem"

    def exists(self) -> bool:
        """Whether devices can be served from here."""
        return (self._metadata / "timestamp.json").is_file()

    def create(self) -> None:
        """Make key, root and empty metadata where there are none; finishes what a crash left half made.

        Raises:
            StoreError: the folder cannot be written.
        """
        if self.exists():
            return
        with self._locked():
            if self.exists():
                return
            signer = self._new_key()
            root = Root(consistent_snapshot=True)
            for role in LIFE:
                root.add_key(signer.public_key, role)
            self._write_root(root, signer)
            self._targets.mkdir(parents=True, exist_ok=True)
            self._publish(signer, Targets(), snapshot=Snapshot(), timestamp=Timestamp())

    def releases(self, group: str | None = None) -> list[Release]:
        """What the signed metadata offers now, by group and number.

        Raises:
            StoreError: there is no repository, or its metadata cannot be read.
        """
        found = [_release(target) for target in self._current()[0].targets.values()]
        return sorted((one for one in found if group in (None, one.group)), key=lambda one: (one.group, one.number))

    def add_release(self, bundle: bytes, group: str, note: str = "") -> Release:
        """Number, sign and publish a bundle for a group.

        Raises:
            UsageError: the group's name, or an empty or too large bundle.
            StoreError: the repository cannot be read or written, or its metadata would grow past what devices read.
        """
        if not is_group(group):
            raise UsageError(f"group: 1-64 letters, digits, '.', '_', '-' expected, {group[:80]!r} received")
        if not 0 < len(bundle) <= MAX_BUNDLE_BYTES:
            raise UsageError(f"bundle: 1 to {MAX_BUNDLE_BYTES} bytes expected, {len(bundle)} received")
        if len(note) > 256:
            raise UsageError(f"note: at most 256 characters expected, {len(note)} received")
        self.create()
        with self._locked():
            signer = self._key()
            targets, snapshot, timestamp = self._current()
            ours = sorted(
                (one for one in map(_release, targets.targets.values()) if one.group == group),
                key=lambda one: one.number,
            )
            number = ours[-1].number + 1 if ours else 1
            digest = hashlib.sha256(bundle).hexdigest()
            release = Release(
                group, number, digest, f"{group}/{number}.covey", len(bundle), round(time.time(), 3), note
            )
            custom = {
                "release": number,
                "group": group,
                "digest": digest,
                "created_ms": round(release.created_s * 1000),  # canonical JSON knows no fractions
                "note": note,
            }
            targets.targets[release.target] = TargetFile(
                len(bundle), {"sha256": digest}, release.target, {"custom": custom}
            )
            for old in ours[: max(0, len(ours) + 1 - KEEP)]:
                del targets.targets[old.target]
            # Consistent snapshots: a target's file carries its hash, so the old one stays fetchable meanwhile.
            self._write(self._targets / group / f"{digest}.{number}.covey", bundle)
            targets.version += 1
            self._publish(signer, targets, snapshot, timestamp)
        return release

    def refresh(self, now: datetime | None = None) -> list[str]:
        """Sign again what has lived half its life; returns the names of the roles renewed.

        Raises:
            StoreError: the repository cannot be read or written.
        """
        now = now or datetime.now(timezone.utc)
        with self._locked():
            root = _read(self._metadata / "root.json", Root).signed
            targets, snapshot, timestamp = self._current()
            parts: dict[str, Part] = {"root": root, "targets": targets, "snapshot": snapshot, "timestamp": timestamp}
            old = [name for name, part in parts.items() if part.expires - now < LIFE[name] / 2]
            if not old:
                return []
            signer = self._key()
            if "root" in old:
                root.version += 1
                self._write_root(root, signer, now)
            if "targets" in old:
                targets.version += 1
                self._publish(signer, targets, snapshot, timestamp, now)
            elif "snapshot" in old:
                self._publish(signer, None, snapshot, timestamp, now)
            elif "timestamp" in old:
                timestamp.version += 1
                self._write_signed(timestamp, "timestamp.json", signer, now)
        return old

    def root(self) -> bytes:
        """The trusted root that a device is given when it is set up.

        Raises:
            StoreError: there is no repository.
        """
        return _bytes(self._metadata / "root.json")

    def _current(self) -> tuple[Targets, Snapshot, Timestamp]:
        """What the timestamp points to; files of an unfinished step are not looked at."""
        timestamp = _read(self._metadata / "timestamp.json", Timestamp).signed
        version = timestamp.snapshot_meta.version
        snapshot = _read(self._metadata / f"{version}.snapshot.json", Snapshot).signed
        version = snapshot.meta["targets.json"].version
        return _read(self._metadata / f"{version}.targets.json", Targets).signed, snapshot, timestamp

    def _publish(
        self,
        signer: CryptoSigner,
        targets: Targets | None,
        snapshot: Snapshot,
        timestamp: Timestamp,
        now: datetime | None = None,
    ) -> None:
        """Targets, then snapshot, then timestamp: until the last rename the old repository is the one."""
        first = not self.exists()
        if targets is not None:
            self._write_signed(targets, f"{targets.version}.targets.json", signer, now)
            snapshot.meta["targets.json"] = MetaFile(version=targets.version)
        snapshot.version += 0 if first else 1
        self._write_signed(snapshot, f"{snapshot.version}.snapshot.json", signer, now)
        timestamp.snapshot_meta = MetaFile(version=snapshot.version)
        timestamp.version += 0 if first else 1
        self._write_signed(timestamp, "timestamp.json", signer, now)

    def _write_root(self, root: Root, signer: CryptoSigner, now: datetime | None = None) -> None:
        content = self._write_signed(root, f"{root.version}.root.json", signer, now)
        self._write(self._metadata / "root.json", content)

    def _write_signed(self, signed: Part, name: str, signer: CryptoSigner, now: datetime | None = None) -> bytes:
        signed.expires = ((now or datetime.now(timezone.utc)) + LIFE[signed.type]).replace(microsecond=0)
        document: Metadata[Any] = Metadata(signed)
        document.sign(signer)
        content = document.to_bytes(JSONSerializer(compact=True))
        if len(content) > MAX_METADATA_BYTES:
            raise StoreError(f"{name}: at most {MAX_METADATA_BYTES} bytes expected, {len(content)} made: fewer groups?")
        self._write(self._metadata / name, content)
        return content

    def _key(self) -> CryptoSigner:
        private = load_pem_private_key(_bytes(self._key_path), password=None)
        return CryptoSigner(private)

    def _new_key(self) -> CryptoSigner:
        if not self._key_path.exists():
            pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            self._write(self._key_path, pem, 0o600)
        return self._key()

    def _write(self, path: Path, content: bytes, mode: int = 0o644) -> None:
        try:
            write_whole(path, content, mode)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, over processes; readers need no lock, files are replaced whole."""
        keys = self._key_path.parent
        try:
            keys.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(keys / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise StoreError(f"{keys}: cannot be written: {error.strerror or error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _release(target: TargetFile) -> Release:
    custom = target.custom or {}
    return Release(
        group=str(custom.get("group", "")),
        number=int(custom.get("release", 0)),
        digest=str(custom.get("digest", "")),
        target=target.path,
        size_bytes=target.length,
        created_s=int(custom.get("created_ms", 0)) / 1000,
        note=str(custom.get("note", "")),
    )


def _read(path: Path, kind: type[T]) -> Metadata[T]:
    content = _bytes(path)
    try:
        document: Metadata[T] = Metadata.from_bytes(content)
    except DeserializationError as error:
        raise StoreError(f"{path}: TUF metadata expected, something else found") from error
    if not isinstance(document.signed, kind):
        raise StoreError(f"{path}: {kind.type} metadata expected, {document.signed.type} found")
    return document


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}; `covey cloud run` makes it") from error
