"""Fetches the release that the cloud wants, and believes nothing that its metadata does not sign (TUF, python-tuf's client).

Beyond TUF, this device keeps floors of its own in `floors.json`: the highest version of each role and the latest time at which
everything was valid. So metadata that was deleted here cannot be replaced by older metadata, and a clock that was set back
revives nothing that has expired. The time floor rises only to moments at which the metadata was valid, so a clock that ran
ahead can never lock a device out for longer than the life of a timestamp.

It refuses to run a bundle (edge/models/check.py) or to install one (edge/models/slots.py).
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct
from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.ngclient import Updater as TufUpdater
from tuf.ngclient import UpdaterConfig

from covey.bundle import MAX_BUNDLE_BYTES
from covey.errors import UpdateError
from covey.runtime import write_whole
from edge.models.fetch import Cut, Limits, TufFetcher, get, told

if TYPE_CHECKING:
    import ssl
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from covey.wire import Desired

_log = logging.getLogger("edge.update")

_ROLES = ("timestamp", "snapshot", "targets")


class _Floor(Struct, frozen=True, forbid_unknown_fields=True):
    version: Annotated[int, Meta(ge=0)]
    keys: list[str]  # key ids of the role: with new keys its versions may begin anew (TUF 5.3.11, fast-forward attacks)


class _Floors(Struct, frozen=True, forbid_unknown_fields=True):
    """floors.json."""

    root: Annotated[int, Meta(ge=0)] = 0
    roles: dict[str, _Floor] = {}
    time_s: Annotated[float, Meta(ge=0)] = 0.0


class Updater:
    """Fetches bundles into a private folder.

    Attributes:
        fetched_bytes: bytes of metadata and bundles received since start.
    """

    def __init__(
        self,
        folder: Path,
        trusted_root: Path,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is read or fetched yet.

        Args:
            folder: kept between fetches: metadata, floors, partial downloads.
            trusted_root: the root metadata given to the device when it was set up.
            limits: what a fetch may cost.
            tls: for https addresses; the system's authorities by default.
            clock: seconds since the epoch.
        """
        self._folder = folder
        self._trusted_root = trusted_root
        self._limits = limits or Limits()
        self._tls = tls
        self._clock = clock
        self.fetched_bytes = 0

    def fetch(self, desired: Desired, stop: threading.Event) -> Path:
        """Bring a release here, verified; what a cut connection brought is kept and gone on from.

        Returns:
            The bundle file, whole and on disk; it stays until another release is fetched.

        Raises:
            UpdateError: unreachable, refused by TUF or by a floor, or not what `desired` says; also when `stop` is set.
        """
        where = f"release {desired.release} for group {desired.group}"
        try:
            for part in ("", "metadata", "metadata/root_history", "partial", "bundles"):
                (self._folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
            target = self._target(where, desired, stop)
            done = self._folder / "bundles" / f"{desired.digest}.covey"
            partial = self._folder / "partial" / desired.digest
            _forget_others(done, partial)
            if done.exists() and _digest(done) == desired.digest:
                return done
            self._download(where, desired, target, partial, stop)
            partial.replace(done)
            _sync(done.parent)
        except OSError as error:
            name = error.filename or self._folder
            raise UpdateError(f"{where}: {name}: cannot be read or written: {told(error)}") from error
        else:
            return done

    def _target(self, where: str, desired: Desired, stop: threading.Event) -> TargetFile:
        """What the signed metadata says about the release, after every check but that of its bytes."""
        limits, base = self._limits, desired.url.rstrip("/")
        fetcher = TufFetcher(limits, self._tls, stop)
        config = UpdaterConfig(
            max_root_rotations=limits.root_rotations,
            max_delegations=1,  # the repository has one targets role and no other
            root_max_length=limits.metadata_bytes,
            timestamp_max_length=limits.timestamp_bytes,
            snapshot_max_length=limits.metadata_bytes,
            targets_max_length=limits.metadata_bytes,
        )
        try:
            client = TufUpdater(
                str(self._folder / "metadata"),
                f"{base}/metadata/",
                fetcher=fetcher,
                config=config,
                bootstrap=self._trusted_root.read_bytes(),
            )
            client.refresh()
            self._check_floors(where)
            target = client.get_targetinfo(desired.target)
        except (RepositoryError, DownloadError, ValueError) as error:
            raise UpdateError(f"{where}: {base}: {told(error)}") from error
        finally:
            self.fetched_bytes += fetcher.fetched_bytes
        if target is None:
            raise UpdateError(f"{where}: target {desired.target} expected in the signed metadata, not there")
        _compare(where, target, desired)
        return target

    def _check_floors(self, where: str) -> None:
        """Judge the metadata that TUF has just verified by this device's own floors, then raise them."""
        folder, floors = self._folder / "metadata", self._read_floors()
        root: Metadata[Root] = Metadata.from_bytes((folder / "root.json").read_bytes())
        clock_s = self._clock()
        now_s = max(clock_s, floors.time_s)
        if root.signed.version < floors.root:
            raise UpdateError(f"{where}: root version {floors.root} or newer expected, {root.signed.version} received")
        raised: dict[str, _Floor] = {}
        for role in ("root", *_ROLES):
            document: Metadata[Any] = Metadata.from_bytes((folder / f"{role}.json").read_bytes())
            expires: datetime = document.signed.expires
            if expires.replace(tzinfo=timezone.utc).timestamp() <= now_s:
                by = "this device's clock" if now_s == clock_s else "a time this device has already seen"
                raise UpdateError(f"{where}: valid {role} metadata expected, expired {expires:%Y-%m-%d %H:%M}Z by {by}")
            if role == "root":
                continue
            keys = sorted(root.signed.roles[role].keyids)
            floor = floors.roles.get(role, _Floor(0, keys))
            version = int(document.signed.version)
            if floor.keys == keys and version < floor.version:
                raise UpdateError(f"{where}: {role} version {floor.version} or newer expected, {version} received")
            raised[role] = _Floor(version, keys)
        wanted = _Floors(root.signed.version, raised, now_s)
        if msgspec.structs.replace(floors, time_s=now_s) != wanted or now_s - floors.time_s > 60:
            write_whole(self._folder / "floors.json", msgspec.json.encode(wanted), 0o600)

    def _read_floors(self) -> _Floors:
        path = self._folder / "floors.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Floors)
        except FileNotFoundError:
            return _Floors()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # No weaker than a deleted file; refusing would end this device's updates for good.
            _log.warning("%s: damaged, floors begin anew: %s", path, error)
            return _Floors()

    def _download(self, where: str, desired: Desired, target: TargetFile, partial: Path, stop: threading.Event) -> None:
        """Bring the bundle's bytes into `partial`, synced, with length and digest as signed."""
        limits, length = self._limits, target.length
        folder, slash, name = desired.target.rpartition("/")
        url = f"{desired.url.rstrip('/')}/targets/{quote(f'{folder}{slash}{desired.digest}.{name}')}"
        deadline = time.monotonic() + limits.target_s
        have = _size(partial)
        resumed, fruitless = have > 0, 0
        while True:
            if have >= length:
                if have == length and _digest(partial) == desired.digest:
                    return
                partial.unlink()
                if not resumed:
                    raise UpdateError(f"{where}: {url}: digest {desired.digest[:12]}... expected, another received")
                resumed, have = False, 0  # the older part may have suffered a power loss: once more from the start
            reason = "it ended early"
            try:
                self._bring(url, partial, have, length, deadline, stop)
            except (Cut, OSError, http.client.HTTPException) as error:
                reason = told(error)
            before, have = have, _size(partial)
            fruitless = 0 if have > before else fruitless + 1
            if have < length and (stop.is_set() or fruitless >= limits.tries or time.monotonic() > deadline):
                why = "stopped" if stop.is_set() else reason
                raise UpdateError(
                    f"{where}: {url}: {have} of {length} bytes came: {why}; the next fetch goes on from there"
                )
            if fruitless:
                stop.wait(min(8.0, limits.pause_s * 2.0 ** (fruitless - 1)))

    def _bring(self, url: str, partial: Path, have: int, length: int, deadline: float, stop: threading.Event) -> None:
        """Append what one connection brings.

        Raises:
            Cut, OSError, http.client.HTTPException: another connection may bring more.
            UpdateError: no other will.
        """
        with get(url, self._limits.silence_s, self._tls, have) as (status, body):
            if status == 416:
                partial.unlink(missing_ok=True)
            if status == 416 or status >= 500 or (status == 206 and body.start != have):
                raise Cut(f"bytes from {have} on expected, status {status} from {body.start} on received")
            if status not in (200, 206):
                raise UpdateError(f"{url}: status 200 expected, {status} received")
            with _Partial(partial, body.start) as file:
                for piece in body.pieces():
                    self.fetched_bytes += len(piece)
                    if file.size + len(piece) > length:
                        partial.unlink(missing_ok=True)
                        raise UpdateError(f"{url}: {length} bytes expected, more received")
                    file.append(piece)
                    if stop.is_set() or time.monotonic() > deadline:
                        raise Cut(f"not whole within {self._limits.target_s:g} s")


class _Partial:
    """The file of a partial download; its own errors are not the connection's."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self.size = size

    def __enter__(self) -> _Partial:  # noqa: PYI034  # Self needs 3.11
        with self._told():
            self._fd = os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600)
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, self.size, os.SEEK_SET)
        return self

    def append(self, piece: bytes) -> None:
        with self._told():
            written = 0
            while written < len(piece):
                written += os.write(self._fd, piece[written:])
        self.size += len(piece)

    def __exit__(self, *_: object) -> None:
        with self._told():
            try:
                os.fsync(self._fd)
            finally:
                os.close(self._fd)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UpdateError(f"{self._path}: cannot be written: {told(error)}") from error


def _compare(where: str, target: TargetFile, desired: Desired) -> None:
    """What is signed must be what is desired: a valid bundle of another group or release is not."""
    custom = target.custom or {}
    pairs = {
        "digest": (desired.digest, target.hashes.get("sha256")),
        "size": (desired.size_bytes, target.length),
        "custom release": (desired.release, custom.get("release")),
        "custom group": (desired.group, custom.get("group")),
        "custom digest": (desired.digest, custom.get("digest")),
    }
    for what, (wanted, signed) in pairs.items():
        if wanted != signed:
            raise UpdateError(f"{where}: {what} {wanted} expected, {str(signed)[:80]} signed for {target.path}")
    if target.length > MAX_BUNDLE_BYTES:
        raise UpdateError(f"{where}: at most {MAX_BUNDLE_BYTES} bytes expected, {target.length} signed")


def _forget_others(*kept: Path) -> None:
    """A device has room for one bundle on its way, not for every one that ever was."""
    for keep in kept:
        for path in keep.parent.iterdir():
            if path != keep:
                path.unlink()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 16):
            digest.update(piece)
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
