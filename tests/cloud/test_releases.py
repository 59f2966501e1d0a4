"""The release repository, read by python-tuf's own client over our server on loopback."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tuf.api.exceptions import BadVersionNumberError, DownloadError, RepositoryError
from tuf.api.metadata import Metadata, Timestamp
from tuf.ngclient import Updater

from cloud.config import CloudConfig
from cloud.learn import serve
from cloud.learn.releases import KEEP, MAX_METADATA_BYTES, Repository
from cloud_events import small_bundle
from covey.errors import StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "repo")
    repository.create()
    return repository


@pytest.fixture
def url(repository: Repository) -> Iterator[str]:
    stop, ports = threading.Event(), []
    bound = threading.Event()

    def ready(port: int) -> None:
        ports.append(port)
        bound.set()

    config = CloudConfig(repository_dir=str(repository.public_dir.parent), serve_port=0)
    thread = threading.Thread(target=serve.run, args=(config, stop, ready))
    thread.start()
    assert bound.wait(10)
    yield f"http://127.0.0.1:{ports[0]}"
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def device(folder: Path, url: str, root: bytes) -> Updater:
    """A device's client: what it trusted before stays in `folder`."""
    (folder / "targets").mkdir(parents=True, exist_ok=True)
    return Updater(
        str(folder / "metadata"), f"{url}/metadata/", str(folder / "targets"), f"{url}/targets/", bootstrap=root
    )


def fetch(folder: Path, url: str, root: bytes, target: str) -> bytes:
    updater = device(folder, url, root)
    info = updater.get_targetinfo(target)
    assert info is not None
    return Path(updater.download_target(info)).read_bytes()


def test_the_right_bundle_arrives(repository: Repository, url: str, tmp_path: Path) -> None:
    content = small_bundle()
    release = repository.add_release(content, "default", "first")
    assert (release.number, release.digest) == (1, hashlib.sha256(content).hexdigest())
    assert fetch(tmp_path / "d1", url, repository.root(), release.target) == content
    info = device(tmp_path / "d1", url, repository.root()).get_targetinfo(release.target)
    assert info is not None
    assert {name: info.custom[name] for name in ("release", "group", "digest")} == {
        "release": 1,
        "group": "default",
        "digest": release.digest,
    }


def test_numbers_count_per_group(repository: Repository) -> None:
    numbers = [repository.add_release(small_bundle(str(n)), group).number for n, group in enumerate("aabab")]
    assert numbers == [1, 2, 1, 3, 2]
    assert [(one.group, one.number) for one in repository.releases()] == [
        ("a", 1),
        ("a", 2),
        ("a", 3),
        ("b", 1),
        ("b", 2),
    ]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_in_the_target_is_refused(repository: Repository, url: str, tmp_path: Path) -> None:
    release = repository.add_release(small_bundle(), "default")
    flip(next((repository.public_dir / "targets" / "default").iterdir()))
    with pytest.raises(RepositoryError):
        fetch(tmp_path / "d1", url, repository.root(), release.target)


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "2.targets.json"])
def test_a_flipped_bit_in_metadata_is_refused(repository: Repository, url: str, tmp_path: Path, name: str) -> None:
    root = repository.root()
    release = repository.add_release(small_bundle(), "default")
    flip(repository.public_dir / "metadata" / name)
    with pytest.raises(RepositoryError):
        fetch(tmp_path / "d1", url, root, release.target)


def test_an_older_timestamp_is_refused(repository: Repository, url: str, tmp_path: Path) -> None:
    root, path = repository.root(), repository.public_dir / "metadata" / "timestamp.json"
    repository.add_release(small_bundle("old"), "default")
    old = path.read_bytes()
    release = repository.add_release(small_bundle("new"), "default")
    device(tmp_path / "d1", url, root).refresh()
    path.write_bytes(old)
    with pytest.raises(BadVersionNumberError):
        fetch(tmp_path / "d1", url, root, release.target)


def test_another_key_is_refused(repository: Repository, url: str, tmp_path: Path) -> None:
    root = repository.root()
    other = Repository(tmp_path / "other")
    release = other.add_release(small_bundle("evil"), "default")
    shutil.rmtree(repository.public_dir)
    shutil.copytree(other.public_dir, repository.public_dir)
    with pytest.raises(RepositoryError):
        fetch(tmp_path / "d1", url, root, release.target)


def test_the_key_is_private_and_not_served(repository: Repository, url: str) -> None:
    key = repository.public_dir.parent / "keys" / "online.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o077 == 0
    served = [path for path in repository.public_dir.rglob("*") if path.is_file()]
    assert not any(b"PRIVATE" in path.read_bytes() for path in served)


def test_refresh_renews_what_has_lived_half_its_life(repository: Repository, url: str, tmp_path: Path) -> None:
    root, now = repository.root(), datetime.now(timezone.utc)
    release = repository.add_release(small_bundle(), "default")
    assert repository.refresh(now) == []
    assert repository.refresh(now + timedelta(days=4)) == ["timestamp"]
    assert repository.refresh(now + timedelta(days=50)) == ["targets", "snapshot", "timestamp"]
    assert repository.refresh(now + timedelta(days=200)) == ["root", "targets", "snapshot", "timestamp"]
    assert fetch(tmp_path / "d1", url, root, release.target) == small_bundle()
    path = repository.public_dir / "metadata" / "timestamp.json"
    signed = Metadata[Timestamp].from_bytes(path.read_bytes()).signed
    assert abs(signed.expires - now - timedelta(days=207)) < timedelta(seconds=2)


def test_expired_metadata_is_refused(repository: Repository, url: str, tmp_path: Path) -> None:
    root = repository.root()
    repository.refresh(datetime.now(timezone.utc) + timedelta(days=5))
    path = repository.public_dir / "metadata" / "timestamp.json"
    document = Metadata[Timestamp].from_bytes(path.read_bytes())
    document.signed.expires = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(seconds=1)
    document.sign(repository._key())
    path.write_bytes(document.to_bytes())
    with pytest.raises(RepositoryError):
        device(tmp_path / "d1", url, root).refresh()


# Adds a release and dies at the n-th rename: what a power cut between two steps leaves.
_ADD = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from cloud_events import small_bundle
from cloud.learn.releases import Repository
renames, real = 0, os.replace
def replace(a, b):
    global renames
    renames += 1
    if renames == {at}:
        os._exit(9)
    real(a, b)
os.replace = replace
Repository(Path({folder!r})).add_release(small_bundle("new"), "default")
"""


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_crash_between_steps_leaves_a_usable_repository(
    repository: Repository, url: str, tmp_path: Path, at: int
) -> None:
    old = repository.add_release(small_bundle("old"), "default")
    folder = repository.public_dir.parent
    code = _ADD.format(tests=str(Path(__file__).parent.parent), folder=str(folder), at=at)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert [one.number for one in repository.releases()] == [1]
    assert fetch(tmp_path / "d1", url, repository.root(), old.target) == small_bundle("old")
    new = repository.add_release(small_bundle("new"), "default")
    assert new.number == 2
    assert fetch(tmp_path / "d1", url, repository.root(), new.target) == small_bundle("new")


@pytest.mark.parametrize("at", [2, 4, 6])
def test_a_crash_while_it_is_made_is_finished_by_the_next(tmp_path: Path, at: int) -> None:
    code = _ADD.format(tests=str(Path(__file__).parent.parent), folder=str(tmp_path / "r"), at=at)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    repository = Repository(tmp_path / "r")
    assert repository.add_release(small_bundle("new"), "default").number == 1


def test_metadata_stays_within_what_devices_read(repository: Repository) -> None:
    for n in range(KEEP + 3):
        last = repository.add_release(small_bundle(str(n)), "default", "x" * 256)
    assert last.number == KEEP + 3
    assert [one.number for one in repository.releases()] == list(range(4, KEEP + 4))
    sizes = {path.name: path.stat().st_size for path in (repository.public_dir / "metadata").iterdir()}
    assert max(sizes.values()) < MAX_METADATA_BYTES
    assert sizes["timestamp.json"] < 8192


@pytest.mark.parametrize("group", ["", "../x", "a/b", ".hidden", "x" * 65, "a\n"])
def test_group_names_stay_in_their_folder(repository: Repository, group: str) -> None:
    with pytest.raises(UsageError, match="group"):
        repository.add_release(small_bundle(), group)


def test_repository_that_cannot_be_written_is_one_line() -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        Repository(Path("/sys/covey")).create()


def test_damaged_metadata_is_one_line(repository: Repository) -> None:
    (repository.public_dir / "metadata" / "timestamp.json").write_bytes(b"{")
    with pytest.raises(StoreError, match=r"timestamp\.json: TUF metadata expected"):
        repository.releases()


def test_served_port_closed_is_a_download_error(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        device(tmp_path / "d1", "http://127.0.0.1:9", repository.root()).refresh()
