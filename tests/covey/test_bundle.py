"""The bundle: whole or refused."""

from __future__ import annotations

import io
import random
import zipfile

import msgspec
import pytest

from covey.bundle import (
    FORMAT,
    Calibration,
    Defaults,
    Features,
    Golden,
    Inputs,
    Manifest,
    Model,
    Scoring,
    pack,
    read_bundle,
    read_calibration,
    sha256,
    unpack,
    write_bundle,
    write_calibration,
)
from covey.errors import BundleError, DigestMismatch

SKETCH = [[0, 0], [1, 10]]
MANIFEST = Manifest(
    format=FORMAT,
    family="pca",
    group="default",
    made="2026-11-23T00:00:00Z",
    made_by="0.1.0",
    inputs=Inputs(["a", "b"], 1.0, 2, 1, Features("lag")),
    defaults=Defaults([0.0] * 4, [1.0] * 4, 8.0, [1.0] * 4, {"litert": 2.0}, {"litert": SKETCH}),
    model=Model("project", 4, 3),
    scoring=Scoring(1.0, 0.99, 4 / 3, 2, 4, 10, "channel", [0, 1, 0, 1]),
    golden=Golden(1, {"litert": 0.1}),
    evidence={"int8_error": 0.01},
    files={},
)
FILES = {"model.tflite": b"T" * 40, "golden/input.f32": b"\0" * 16, "golden/litert.f32": b"\0" * 12}


def test_the_same_content_gives_the_same_bytes_and_reads_back():
    content = pack(MANIFEST, FILES)
    assert content == pack(MANIFEST, dict(reversed(FILES.items())))
    bundle = unpack(content, "b")
    assert bundle.files == FILES
    assert bundle.digest == sha256(content)
    assert bundle.model("tflite") == bundle.model("litert") == b"T" * 40


def test_one_flipped_bit_anywhere_is_refused():
    content = pack(MANIFEST, FILES)
    rng = random.Random(0)
    for bit in rng.sample(range(8 * len(content)), 600):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BundleError):
            unpack(bytes(broken), "b")


@pytest.mark.parametrize("keep", [0, 1, 30, 200, -1])
def test_a_truncated_bundle_is_refused(keep):
    with pytest.raises(BundleError):
        unpack(pack(MANIFEST, FILES)[:keep], "b")


def test_bytes_behind_the_end_are_refused():
    with pytest.raises(BundleError, match="damaged"):
        unpack(pack(MANIFEST, FILES) + b"more", "b")


def test_a_compressed_copy_of_the_same_files_is_refused():
    content = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(pack(MANIFEST, FILES))) as old,
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(BundleError, match="damaged"):
        unpack(content.getvalue(), "b")


def test_a_file_of_another_digest_is_named(tmp_path):
    digest = write_bundle(tmp_path / "b.covey", MANIFEST, FILES)
    assert read_bundle(tmp_path / "b.covey", digest).digest == digest
    with pytest.raises(DigestMismatch, match=r"b\.covey: digest 000000000000\.\.\. expected"):
        read_bundle(tmp_path / "b.covey", "0" * 64)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("defaults", "center"), [0.0] * 3, "defaults.center: 4 values expected, 3 found"),
        (("model", "inputs"), 5, "model.inputs: 4 expected for features lag, 5 found"),
        (("defaults", "scale"), [0.0] * 4, "scale"),
        (("scoring", "channel_of_feature"), [0, 1, 0, 2], "channel_of_feature"),
        (("format",), "covey-bundle/2", "format"),
        (("surprise",), 1, "surprise"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(path, value, words):
    raw = msgspec.to_builtins(MANIFEST)
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("manifest.json", msgspec.json.encode(raw))
    with pytest.raises(BundleError, match=words):
        unpack(content.getvalue(), "b")


def test_a_missing_bundle_is_one_line(tmp_path):
    with pytest.raises(BundleError, match="a bundle expected, cannot be read: No such file"):
        read_bundle(tmp_path / "none")


def test_a_calibration_is_private_and_belongs_to_one_bundle(tmp_path):
    digest = sha256(pack(MANIFEST, FILES))
    calibration = Calibration(
        "covey-calibration/1",
        digest,
        "2026-11-23T00:00:00Z",
        20,
        2,
        [0.0] * 4,
        [1.0] * 4,
        [1.0] * 4,
        {"litert": 2.0},
        {"litert": SKETCH},
    )
    assert read_calibration(tmp_path, MANIFEST, digest) is None
    path = write_calibration(tmp_path, calibration)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_calibration(tmp_path, MANIFEST, digest) == calibration
    path.rename(tmp_path / f"{'0' * 64}.json")
    with pytest.raises(BundleError, match="a calibration of bundle 000000000000 with 4 features expected"):
        read_calibration(tmp_path, MANIFEST, "0" * 64)
