"""Fetching releases: the cloud's own repository, a real server that can be told to misbehave, and attacks signed by hand."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import stat
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile

from cloud.learn.releases import Repository
from cloud.learn.serve import Server
from covey.errors import UpdateError
from covey.wire import Desired
from edge.models.fetch import Limits
from edge.models.update import Updater

BUNDLE = os.urandom(300_000)  # TUF and the downloader know bytes, not bundles
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUICK = Limits(silence_s=2.0, metadata_s=10.0, target_s=20.0, pause_s=0.01)


class Misbehaving(http.server.ThreadingHTTPServer):
    """Serves a folder with ranges; plain attributes make it worse.

    Attributes:
        cuts: bytes of a bundle after which the connection is closed, one number a request.
        instead: path ending -> bytes sent instead of the file.
        endless: path ending that is answered with bytes without end.
        drip: path ending that is sent one byte every 50 ms.
        ranges: whether byte ranges are honoured.
        asked: (path, Range header) of every request.
        sent: bytes of bodies sent.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.cuts: list[int] = []
        self.instead: dict[str, bytes] = {}
        self.endless = self.drip = ""
        self.ranges = True
        self.on_target: threading.Event | None = None
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def targets_asked(self) -> list[str | None]:
        return [wanted for path, wanted in self.asked if path.startswith("/targets/")]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Misbehaving

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        target = self.path.startswith("/targets/")
        content = next((body for end, body in server.instead.items() if self.path.endswith(end)), None)
        if content is None:
            file = server.root / self.path[1:]
            if not file.is_file():
                self.send_error(404)
                return
            content = file.read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        endless = server.endless and self.path.endswith(server.endless)
        if not endless:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if target and server.on_target is not None:
            body = body[:1000]
            server.on_target.set()
        if target and server.cuts:
            body = body[: server.cuts.pop(0)]
        if server.drip and self.path.endswith(server.drip):
            for n in range(len(body)):
                self._send(body[n : n + 1])
                time.sleep(0.05)
            return
        self._send(body)
        while endless:
            self._send(b"x" * 4096)

    def _send(self, body):
        self.wfile.write(body)
        self.server.sent += len(body)

    def log_message(self, *args):
        pass

    def handle(self):
        try:
            super().handle()
        except ConnectionError:  # the client has heard enough
            self.close_connection = True


class Stage:
    """A repository with one release, its server, and a device."""

    def __init__(self, folder: Path, server: Misbehaving, repository: Repository) -> None:
        self.folder = folder
        self.server = server
        self.repository = repository
        self.metadata = repository.public_dir / "metadata"
        self.root = folder / "trusted-root.json"
        self.root.write_bytes(repository.root())
        self.update = folder / "state" / "update"

    def updater(self, limits: Limits = QUICK, clock=time.time) -> Updater:
        return Updater(self.update, self.root, limits, clock=clock)

    def desired(self, number: int = 1, **changes: object) -> Desired:
        release = self.repository.releases("north")[number - 1]
        plain = Desired(
            device="d1",
            revision=1,
            group="north",
            release=release.number,
            target=release.target,
            digest=release.digest,
            size_bytes=release.size_bytes,
            url=self.server.url,
        )
        return msgspec.structs.replace(plain, **changes)

    def fetch(self, number: int = 1, updater: Updater | None = None, **changes: object) -> Path:
        return (updater or self.updater()).fetch(self.desired(number, **changes), threading.Event())

    def refused(self, told: str, number: int = 1, updater: Updater | None = None, **changes: object) -> str:
        with pytest.raises(UpdateError, match=told) as caught:
            self.fetch(number, updater, **changes)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def signer(self) -> CryptoSigner:
        pem = (self.repository.public_dir.parent / "keys" / "online.pem").read_bytes()
        return CryptoSigner(load_pem_private_key(pem, None))

    def sign(self, name: str, change, signer: CryptoSigner | None = None) -> None:
        """Change a metadata file and sign it again, as the online key's holder would."""
        document = Metadata.from_file(str(self.metadata / name))
        change(document.signed)
        document.sign(signer or self.signer())
        document.to_file(str(self.metadata / name))

    def save(self) -> Path:
        """A copy of the repository as it is, to be served again later."""
        saved = self.folder / f"saved-{len(list(self.folder.iterdir()))}"
        shutil.copytree(self.repository.public_dir, saved)
        return saved

    def forget_metadata(self) -> None:
        shutil.rmtree(self.update / "metadata")


@pytest.fixture
def stage(tmp_path) -> Iterator[Stage]:
    repository = Repository(tmp_path / "cloud")
    repository.add_release(BUNDLE, "north")
    server = Misbehaving(repository.public_dir)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield Stage(tmp_path, server, repository)
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_a_release_of_the_cloud_is_fetched_from_its_own_server(stage):
    with Server("127.0.0.1", 0, stage.repository.public_dir, threads=4) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        updater = stage.updater()
        path = stage.fetch(updater=updater, url=f"http://127.0.0.1:{server.port}/")
        server.shutdown()
    assert path.read_bytes() == BUNDLE
    assert len(BUNDLE) < updater.fetched_bytes < len(BUNDLE) + 8000


def test_what_is_here_already_is_not_fetched_again_but_verified_again(stage):
    stage.fetch()
    again = stage.updater()
    assert stage.fetch(updater=again).read_bytes() == BUNDLE
    assert len(stage.server.targets_asked()) == 1
    assert 0 < again.fetched_bytes < 2000


def test_a_copy_that_was_damaged_on_the_card_is_fetched_again(stage):
    path = stage.fetch()
    path.write_bytes(BUNDLE[:-1] + b"?")
    assert stage.fetch().read_bytes() == BUNDLE


def test_a_cut_connection_is_gone_on_from_within_one_fetch(stage):
    stage.server.cuts = [100_000, 50_000]
    updater = stage.updater()
    assert stage.fetch(updater=updater).read_bytes() == BUNDLE
    assert stage.server.targets_asked() == [None, "bytes=100000-", "bytes=150000-"]
    assert updater.fetched_bytes < len(BUNDLE) + 8000


def test_a_cut_connection_is_gone_on_from_by_the_next_process(stage):
    stage.server.cuts = [100_000, 0, 0]
    limits = Limits(silence_s=2.0, tries=1, pause_s=0.01)
    stage.refused("100000 of 300000 bytes came.*the next fetch goes on", updater=stage.updater(limits))
    stage.server.cuts = []
    assert stage.fetch().read_bytes() == BUNDLE
    assert stage.server.targets_asked()[-1] == "bytes=100000-"


def test_a_server_without_ranges_is_asked_from_the_start(stage):
    stage.server.ranges = False
    stage.server.cuts = [100_000]
    assert stage.fetch().read_bytes() == BUNDLE


def test_a_part_that_was_damaged_on_the_card_costs_one_more_download(stage):
    stage.server.cuts = [100_000, 0]
    stage.refused("100000 of 300000", updater=stage.updater(Limits(silence_s=2.0, tries=1, pause_s=0.01)))
    stage.server.cuts = []
    (partial,) = (stage.update / "partial").iterdir()
    partial.write_bytes(b"\0" * 100_000)
    assert stage.fetch().read_bytes() == BUNDLE
    assert stage.server.targets_asked()[-2:] == ["bytes=100000-", None]


def test_stop_ends_a_download_and_keeps_what_came(stage):
    stop = threading.Event()
    stage.server.on_target = stop
    with pytest.raises(UpdateError, match="stopped"):
        stage.updater().fetch(stage.desired(), stop)
    stage.server.on_target = None
    (partial,) = (stage.update / "partial").iterdir()
    assert BUNDLE.startswith(partial.read_bytes())
    assert stage.fetch().read_bytes() == BUNDLE


def test_a_tampered_bundle_is_refused_and_not_kept(stage):
    stage.server.instead[".covey"] = BUNDLE[:-1] + bytes([BUNDLE[-1] ^ 1])
    stage.refused("digest .* expected, another received")
    assert not list((stage.update / "partial").iterdir())
    assert not list((stage.update / "bundles").iterdir())


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "2.targets.json"])
def test_tampered_metadata_are_refused(stage, name):
    document = json.loads((stage.metadata / name).read_bytes())
    document["signed"]["version"] += 1
    stage.server.instead["/" + name] = json.dumps(document).encode()
    stage.refused("signed|verif")
    assert stage.server.targets_asked() == []


def test_metadata_signed_by_another_key_are_refused(stage):
    stage.sign("timestamp.json", lambda _: None, CryptoSigner(Ed25519PrivateKey.generate()))
    stage.refused("signed|verif")


def test_older_metadata_are_refused_while_ours_are_here(stage):
    saved = stage.save()
    stage.repository.add_release(b"two", "north")
    stage.fetch(2)
    stage.server.root = saved
    stage.refused("version")


def test_older_metadata_are_refused_by_the_floor_when_ours_were_deleted(stage):
    saved = stage.save()
    stage.repository.add_release(b"two", "north")
    stage.fetch(2)
    stage.forget_metadata()
    stage.server.root = saved
    told = stage.refused("timestamp version 3 or newer expected, 2 received")
    assert told.startswith("release 1 for group north: ")
    # It is the floor that refuses: without it TUF alone would believe.
    (stage.update / "floors.json").unlink()
    stage.forget_metadata()
    assert stage.fetch().read_bytes() == BUNDLE


def test_the_floor_of_each_role_holds_by_itself(stage):
    """The online key's thief signs a newer timestamp over an older snapshot and older targets."""
    stage.repository.add_release(b"two", "north")
    stage.fetch(2)
    stage.forget_metadata()

    def over(version):
        def change(signed):
            signed.version = 9
            signed.snapshot_meta = MetaFile(version=version)

        return change

    stage.sign("timestamp.json", over(2))
    stage.refused("snapshot version 3 or newer expected, 2 received")


def test_a_damaged_floor_file_does_not_end_updates(stage):
    stage.fetch()
    (stage.update / "floors.json").write_bytes(b"{")
    stage.fetch()
    assert json.loads((stage.update / "floors.json").read_bytes())["root"] == 1


def expire(stage, name, days):
    def change(signed):
        signed.expires = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=days)
        signed.version += 1

    stage.sign(name, change)


def test_expired_metadata_are_refused(stage):
    expire(stage, "timestamp.json", -1)
    stage.refused("expired")


def test_a_clock_set_back_does_not_revive_what_expired_before_a_time_already_seen(stage):
    """The device was five days ahead of now when it last updated; then its clock is set back to now."""
    stage.fetch(updater=stage.updater(clock=lambda: time.time() + 5 * 86_400))
    expire(stage, "timestamp.json", 3)  # signed for three more days: over, by what this device has seen
    stage.refused("expired .* by a time this device has already seen")
    expire(stage, "timestamp.json", 8)
    assert stage.fetch().read_bytes() == BUNDLE


def test_a_clock_that_runs_ahead_refuses_and_moves_no_floor(stage):
    stage.refused("expired .* by this device's clock", updater=stage.updater(clock=lambda: time.time() + 9 * 86_400))
    assert stage.fetch().read_bytes() == BUNDLE


@pytest.mark.parametrize(("name", "most"), [("timestamp.json", 8_192), ("2.targets.json", 65_536)])
def test_endless_metadata_are_capped(stage, name, most):
    stage.server.endless = name
    updater = stage.updater()
    stage.refused("exceeding the maximum", updater=updater)
    assert updater.fetched_bytes < most + 40_000
    assert stage.server.targets_asked() == []


def test_an_endless_bundle_is_capped_by_its_signed_length(stage):
    stage.server.endless = ".covey"
    updater = stage.updater()
    stage.refused("300000 bytes expected, more received", updater=updater)
    assert updater.fetched_bytes < len(BUNDLE) + 40_000
    assert not list((stage.update / "partial").iterdir())


@pytest.mark.parametrize("slow", ["timestamp.json", ".covey"])
def test_a_server_that_drips_holds_nobody_past_the_deadline(stage, slow):
    stage.server.drip = slow
    begun = time.monotonic()
    with pytest.raises(UpdateError):
        stage.fetch(updater=stage.updater(Limits(silence_s=1.0, metadata_s=0.5, target_s=0.5, pause_s=0.01)))
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"release": 2}, "release 2 for group north: custom release 2 expected, 1 signed"),
        ({"group": "south"}, "custom group south expected, north signed"),
        ({"digest": "0" * 64}, "digest 0000.* expected"),
        ({"size_bytes": 5}, "size 5 expected, 300000 signed"),
        ({"target": "north/9.covey"}, "target north/9.covey expected in the signed metadata, not there"),
    ],
)
def test_a_signed_bundle_that_is_not_the_desired_one_is_refused(stage, changes, told):
    stage.refused(told, **changes)
    assert stage.server.targets_asked() == []


@pytest.mark.parametrize("field", ["release", "group", "digest"])
def test_a_target_without_its_custom_field_is_refused(stage, field):
    def change(signed):
        del signed.targets["north/1.covey"].unrecognized_fields["custom"][field]

    desired = stage.desired()
    stage.sign("2.targets.json", change)
    with pytest.raises(UpdateError, match=f"custom {field}"):
        stage.updater().fetch(desired, threading.Event())


@pytest.mark.parametrize("url", ["file:///etc", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999", "nonsense"])
def test_an_address_that_is_none_is_one_line(stage, url):
    stage.refused("expected|range", url=url)


def test_a_server_that_is_not_there_is_one_line(stage):
    stage.refused("refused", url="http://127.0.0.1:9")


def test_a_bundle_that_is_not_there_is_one_line(stage):
    stage.server.root = stage.save()
    shutil.rmtree(stage.server.root / "targets")
    stage.refused("status 200 expected, 404 received")


def test_a_missing_root_is_one_line(stage):
    stage.root.unlink()
    stage.refused(r"trusted-root\.json")


def rotate(stage) -> CryptoSigner:
    """Root version 2 replaces the online key; versions of the other roles begin at 1 again."""
    new, old = CryptoSigner(Ed25519PrivateKey.generate()), stage.signer()
    document = Metadata.from_file(str(stage.metadata / "1.root.json"))
    root = document.signed
    root.version = 2
    for role in ("root", "timestamp", "snapshot", "targets"):
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        root.add_key(new.public_key, role)
    document.sign(old)
    document.sign(new, append=True)
    document.to_file(str(stage.metadata / "2.root.json"))
    return new


def again_from_one(stage, signer) -> None:
    targets = Metadata.from_file(str(stage.metadata / "2.targets.json"))
    snapshot = Metadata.from_file(str(stage.metadata / "2.snapshot.json"))
    timestamp = Metadata.from_file(str(stage.metadata / "timestamp.json"))
    targets.signed.version = snapshot.signed.version = timestamp.signed.version = 1
    snapshot.signed.meta["targets.json"] = MetaFile(version=1)
    timestamp.signed.snapshot_meta = MetaFile(version=1)
    for document, name in ((targets, "1.targets.json"), (snapshot, "1.snapshot.json"), (timestamp, "timestamp.json")):
        document.sign(signer)
        document.to_file(str(stage.metadata / name))


def test_new_keys_let_versions_begin_anew_and_an_old_root_does_not_come_back(stage):
    stage.fetch()
    before = stage.save()
    again_from_one(stage, rotate(stage))
    assert stage.fetch().read_bytes() == BUNDLE
    floors = json.loads((stage.update / "floors.json").read_bytes())
    assert floors["root"] == 2
    assert floors["roles"]["timestamp"]["version"] == 1
    stage.forget_metadata()
    stage.server.root = before
    stage.refused("root version 2 or newer expected, 1 received")


def test_only_the_newest_bundle_is_kept_and_all_is_private(stage):
    first = stage.fetch()
    stage.repository.add_release(b"two", "north")
    second = stage.fetch(2)
    assert not first.exists()
    assert second.read_bytes() == b"two"
    for path in [stage.update, *stage.update.rglob("*")]:
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
