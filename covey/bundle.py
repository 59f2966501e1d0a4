"""The bundle: one int8 model with all that is needed to run and check it, in one stored ZIP with a manifest.

A bundle is immutable: its digest (sha256 of the file) is its name. Reading refuses anything that writing would not
have produced byte for byte, so one flipped bit anywhere is an error. What a device adds from its own data
(`Calibration`) lies beside it, keyed by that digest. Stdlib and msgspec only: no array is decoded here.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from covey.bands import BAND_FEATURES, Band, wrong_bands
from covey.errors import BundleError, DigestMismatch
from covey.runtime import write_whole

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "covey-bundle/1"
CALIBRATION_FORMAT = "covey-calibration/1"
MANIFEST = "manifest.json"
MAX_BUNDLE_BYTES = 64 * 1024 * 1024
MAX_MANIFEST_BYTES = 4 * 1024 * 1024

# Names of the files in a bundle. Arrays are float32, little endian, row by row.
MODEL_OF_RUNTIME = {"onnx": "model.onnx", "litert": "model.tflite", "tflite": "model.tflite"}
GOLDEN_INPUT = "golden/input.f32"  # (golden.windows, model.inputs)
STATE = "state.npz"  # what the next federated round starts from; devices do not read it


def golden_output(runtime: str) -> str:
    """Name of the file with a runtime's golden outputs, (golden.windows, model.outputs)."""
    return f"golden/{runtime}.f32"


Width = Annotated[int, Meta(ge=1, le=65_536)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class Branch(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Filters over the last rows of a window that belong together; a score weighs each branch as a whole."""

    name: Annotated[str, Meta(min_length=1, max_length=32)]
    taps: Annotated[list[Annotated[list[float], Meta(min_length=1)]], Meta(min_length=1, max_length=64)]  # newest first
    soft: bool = False  # filter sign(u) log(1 + |u|) of the channels in place of u
    daily: bool = False  # filter what is left of u when the device's own daily course is taken away


class Features(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a window (T, C) becomes a vector of D features; computed by edge/scoring/windows.py and temporal.py.

    `lag`: all T rows, newest first, D = T * C. `drone`: D = 11: four motor ratios - 1, log thrust command,
    log standard deviations and means of three accelerations; windows with a motor at rest are left out. Each of `bands`
    adds three more.
    `temporal`: channels are normalised by the device's own center and scale and clipped, then each branch's filters run over
    each channel, D = filters * C; a window that begins before its flight does has the flight's first row there. Channels
    that wander on a device (its calibration says which) are taken from their own slow average, before they are clipped.
    """

    kind: Literal["lag", "drone", "temporal"]
    airborne_above: float = 0.0  # drone: mean motor command that counts as flying, in the log's own unit
    settle_s: float = 0.0  # drone: seconds after take-off that are left out
    bands: list[Band] = []  # drone: frequencies of the accelerations
    branches: list[Branch] = []  # temporal
    channel_clip: Positive = 8.0  # temporal: bound of a normalised channel
    trend_rows: Annotated[int, Meta(ge=0, le=65_536)] = 0  # temporal: the slow average has weight 1 / this; 0: none
    day_rows: Annotated[int, Meta(ge=0, le=10_000_000)] = (
        0  # temporal: rows of a day, counted from the clock's zero; 0: none
    )
    own_scale: bool = False  # temporal, project: devices scale features by their own spread, not by the group's


class Inputs(Struct, frozen=True, forbid_unknown_fields=True):
    """What the model looks at."""

    channels: Annotated[list[str], Meta(min_length=1, max_length=1024)]
    rate_hz: Positive  # 1.0: rows without a clock
    window: Width  # T, samples
    hop: Width  # samples between two windows
    features: Features

    @property
    def padded(self) -> bool:
        """Whether windows reach back before their flight's first row, which stands there in place of what was not."""
        return self.features.kind == "temporal"

    @property
    def record_rows(self) -> int:
        """Rows of a window that the ring keeps: all, or the newest ones where the windows before hold the others."""
        return self.hop if self.padded else self.window


class Defaults(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Group defaults; a device's calibration replaces them. z = clip((phi - center) / scale, -clip, clip)."""

    center: list[float]  # D
    scale: list[Positive]  # D
    clip: Positive
    spread: list[Positive]  # D: usual size of a feature's smoothed |z| (project) or |residual| (reconstruct)
    thresholds: dict[str, Positive]  # per runtime
    reference: dict[str, list[list[int]]]  # per runtime: sketch of scores of normal windows
    channel_center: list[float] = []  # temporal: C
    channel_scale: list[Positive] = []  # temporal: C
    wandering: list[bool] = []  # temporal: C
    weights: list[NotNegative] = []  # project: K, of each output's square in the score; none: 1 / K each


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """Shape and meaning of the network.

    `project`: y = f(z), score = sum of weights * y^2, the mean without weights. `reconstruct`: z' = f(z), score = mean
    (z - z')^2; K = D.
    """

    kind: Literal["project", "reconstruct"]
    inputs: Width  # D
    outputs: Width  # K


class Outputs(Struct, frozen=True, forbid_unknown_fields=True):
    """What a device makes of a projecting model's outputs by its own normal windows; edge/scoring/weights.py, own.py."""

    branch: list[int]  # K: number of the branch that an output belongs to
    own: Annotated[float, Meta(ge=0, le=1)]  # share of the device's own directions in the score, beside the network's
    keep: Annotated[float, Meta(gt=0, lt=1)]  # share of a branch's variance that the device's own directions hold
    trim: Annotated[float, Meta(ge=0, lt=0.5)]  # share of normal windows, the highest scores, that is not believed


class Adapt(Struct, frozen=True, forbid_unknown_fields=True):
    """How scores follow a level that drifts (edge/scoring/adaptive.py)."""

    hold_windows: Width = 512  # windows above the threshold before a new level may count as normal, at least
    hold_share: Annotated[float, Meta(ge=0, le=1)] = 1 / 16  # of the windows that calibration rests on, if that is more
    rate: Annotated[float, Meta(gt=0, le=0.1)] = 1 / 2048  # share of the way that a calm window moves the level
    bound: Annotated[float, Meta(gt=0, le=1000)] = 49.0  # thresholds: greatest score that the level may take away


class Scoring(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """From a window's score to an alarm."""

    smoothing: Annotated[float, Meta(gt=0, le=1)]  # weight of the newest window in the EWMA; 1: none
    quantile: Annotated[float, Meta(gt=0, lt=1)]  # threshold = factor * this quantile of normal scores
    factor: Positive
    begin_windows: Width  # consecutive windows above the threshold that begin an alarm
    end_windows: Width  # consecutive windows below it that end one
    commission_windows: Width  # normal windows a device needs before it calibrates
    attribution: Literal["channel", "rotor"]  # rotor: the motor whose ratio rose most names the cause
    channel_of_feature: list[int]  # D: index into inputs.channels; -1 (drone): the four motors alike
    outputs: Outputs | None = None  # project: devices weigh outputs themselves
    log: bool = False  # smooth log(1 + score) in place of the score
    alone: Annotated[float, Meta(ge=0, le=10)] = (
        0.0  # added to factor for a device whose own windows are all the group's
    )
    known_windows: Annotated[int, Meta(ge=0)] = 0  # windows that the group's model rests on
    adapt: Adapt | None = None  # None: scores are about the level of the calibration


class Golden(Struct, frozen=True, forbid_unknown_fields=True):
    """Synthetic inputs and what each runtime makes of them."""

    windows: Width
    tolerance: dict[str, Positive]  # per runtime: greatest |difference| of one output


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the bundle."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Meta(ge=0, le=MAX_BUNDLE_BYTES)]


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """manifest.json."""

    format: Literal["covey-bundle/1"]
    family: Annotated[str, Meta(max_length=64)]
    group: Annotated[str, Meta(max_length=64)]
    made: str  # RFC 3339
    made_by: str  # covey's version
    inputs: Inputs
    defaults: Defaults
    model: Model
    scoring: Scoring
    golden: Golden
    evidence: dict[str, float]  # figures of the gates this bundle passed, by name
    files: dict[str, FileEntry]

    def __post_init__(self) -> None:
        """Check the shapes against each other."""
        d = self.model.inputs
        rows: dict[str, list[float] | list[int]] = {
            "defaults.center": self.defaults.center,
            "defaults.scale": self.defaults.scale,
            "defaults.spread": self.defaults.spread,
            "scoring.channel_of_feature": self.scoring.channel_of_feature,
        }
        wrong = [f"{name}: {d} values expected, {len(row)} found" for name, row in rows.items() if len(row) != d]
        wrong += [
            f"{name}: {count} values expected, {len(row)} found"
            for name, count, row in own_rows(self, self.defaults)
            if len(row) != count
        ]
        if self.model.kind == "reconstruct" and self.model.outputs != d:
            wrong.append(f"model.outputs: {d} expected, {self.model.outputs} found")
        least = -1 if self.inputs.features.kind == "drone" else 0
        wrong += _wrong_branches(self.inputs)
        if self.scoring.outputs is not None:
            told = self.scoring.outputs
            if len(told.branch) != self.model.outputs:
                wrong.append(f"scoring.outputs.branch: {self.model.outputs} values expected, {len(told.branch)} found")
        if any(not least <= c < len(self.inputs.channels) for c in self.scoring.channel_of_feature):
            wrong.append("scoring.channel_of_feature: index outside inputs.channels")
        filters = sum(len(branch.taps) for branch in self.inputs.features.branches)
        channels = len(self.inputs.channels)
        expected = {"lag": self.inputs.window * channels, "drone": 11, "temporal": filters * channels}[
            self.inputs.features.kind
        ]
        bands = self.inputs.features.bands
        expected += BAND_FEATURES * len(bands)
        if bands and self.inputs.features.kind != "drone":
            wrong.append(f"inputs.features.bands: none expected for features {self.inputs.features.kind}")
        wrong += wrong_bands(bands, self.inputs.rate_hz, self.inputs.window)
        if d != expected:
            wrong.append(f"model.inputs: {expected} expected for features {self.inputs.features.kind}, {d} found")
        if wrong:
            raise ValueError("; ".join(wrong))


def _wrong_branches(inputs: Inputs) -> list[str]:
    """What is wrong with the filters."""
    branches, window = inputs.features.branches, inputs.window
    if bool(branches) != (inputs.features.kind == "temporal"):
        return [f"inputs.features.branches: {'some' if inputs.padded else 'none'} expected, {len(branches)} found"]
    wrong = [
        f"inputs.features.branches: {branch.name}: filters of at most {window} weights expected, {max(map(len, branch.taps))} found"
        for branch in branches
        if max(map(len, branch.taps)) > window
    ]
    if inputs.padded and inputs.hop > window:
        wrong.append(f"inputs.hop: at most the window's {window} samples expected, {inputs.hop} found")
    return wrong


class Calibration(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a device adds to a bundle from its own ring; never leaves it. One JSON file per bundle digest."""

    format: Literal["covey-calibration/1"]
    bundle: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    made: str  # RFC 3339, device clock
    windows: int  # windows of the ring it rests on
    flights: int
    center: list[float]  # D
    scale: list[Positive]  # D
    spread: list[Positive]  # D
    thresholds: dict[str, Positive]  # per runtime
    reference: dict[str, list[list[int]]]  # per runtime: sketch
    still: list[Annotated[float, Meta(ge=0, le=1)]] = []  # C: share of normal windows in which a channel stands still
    channel_center: list[float] = []  # temporal: C
    channel_scale: list[Positive] = []  # temporal: C
    wandering: list[bool] = []  # temporal: C, channels taken from their slow average; none: no channel
    daily: bytes = b""  # temporal: (terms, C) float32, the device's own daily course
    weights: list[NotNegative] = []  # project: K
    directions: list[
        bytes
    ] = []  # project, one a branch: (k, D') float32, the device's own directions of normal variation
    own_weights: list[NotNegative] = []  # likewise: weight of what a branch has beyond its directions


def own_rows(manifest: Manifest, base: Defaults | Calibration) -> list[tuple[str, int, list[float] | list[bool]]]:
    """(name, values expected, values) of the rows that only some kinds of features and models have."""
    channels = len(manifest.inputs.channels) if manifest.inputs.padded else 0
    outputs = manifest.model.outputs if base.weights else 0
    return [
        ("channel_center", channels, base.channel_center),
        ("channel_scale", channels, base.channel_scale),
        ("wandering", channels if base.wandering else 0, base.wandering),
        ("weights", outputs if manifest.model.kind == "project" else 0, base.weights),
    ]


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and whose digests hold."""

    manifest: Manifest
    digest: str  # sha256 of the bundle's bytes
    size_bytes: int
    files: dict[str, bytes]

    def model(self, runtime: str) -> bytes:
        """Bytes of the model that a runtime loads."""
        name = MODEL_OF_RUNTIME[runtime]
        if name not in self.files:
            raise BundleError(f"bundle {self.digest[:12]}: {name} for runtime {runtime} expected, not there")
        return self.files[name]


def sha256(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()


def pack(manifest: Manifest, files: dict[str, bytes]) -> bytes:
    """The bytes of a bundle; the same content gives the same bytes.

    Args:
        manifest: its `files` are replaced by those given.
        files: name -> content.
    """
    entries = {name: FileEntry(sha256(files[name]), len(files[name])) for name in sorted(files)}
    whole = msgspec.structs.replace(manifest, files=entries)
    return _zip(msgspec.json.encode(whole), files)


def write_bundle(path: Path, manifest: Manifest, files: dict[str, bytes]) -> str:
    """Write a bundle whole and return its digest."""
    content = pack(manifest, files)
    if len(content) > MAX_BUNDLE_BYTES:
        raise BundleError(f"{path}: at most {MAX_BUNDLE_BYTES} bytes expected, {len(content)} made")
    write_whole(path, content)
    return sha256(content)


def read_bundle(path: Path, expected_digest: str | None = None) -> Bundle:
    """Read a bundle and check everything that can be checked without running it.

    Raises:
        BundleError: missing, too large, not a bundle, or a digest inside it does not hold.
        DigestMismatch: the file is not the one expected.
    """
    try:
        if path.stat().st_size > MAX_BUNDLE_BYTES:
            raise BundleError(f"{path}: at most {MAX_BUNDLE_BYTES} bytes expected, {path.stat().st_size} found")
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: a bundle expected, cannot be read: {error.strerror}") from error
    return unpack(content, str(path), expected_digest)


def unpack(content: bytes, name: str, expected_digest: str | None = None) -> Bundle:
    """`read_bundle` on bytes; `name` is for messages."""
    digest = sha256(content)
    if expected_digest is not None and digest != expected_digest:
        raise DigestMismatch(name, expected_digest, digest)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            if sum(sizes.values()) > MAX_BUNDLE_BYTES or sizes.get(MANIFEST, 0) > MAX_MANIFEST_BYTES:
                raise BundleError(f"{name}: files larger than a bundle may be")
            raw = archive.read(MANIFEST)
            files = {n: archive.read(n) for n in sizes if n != MANIFEST}
    except BundleError:
        raise
    except Exception as error:  # zipfile raises half a dozen kinds on damaged input
        raise BundleError(f"{name}: a bundle expected, not a whole ZIP of one: {error}") from error
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{name}: {MANIFEST}: {error}") from error
    for missing in sorted(manifest.files.keys() ^ files.keys()):
        raise BundleError(f"{name}: {missing}: in the manifest or in the archive only")
    for file, entry in manifest.files.items():
        found = sha256(files[file])
        if found != entry.sha256:
            raise DigestMismatch(f"{name}: {file}", entry.sha256, found)
    if _zip(raw, files) != content:
        raise BundleError(f"{name}: damaged: its bytes are not those that were written")
    return Bundle(manifest, digest, len(content), files)


def write_calibration(folder: Path, calibration: Calibration) -> Path:
    """Write `<folder>/<bundle digest>.json`, private, whole."""
    path = folder / f"{calibration.bundle}.json"
    write_whole(path, msgspec.json.encode(calibration), mode=0o600)
    return path


def read_calibration(folder: Path, manifest: Manifest, digest: str) -> Calibration | None:
    """The calibration for a bundle, or None when there is none.

    Raises:
        BundleError: it is damaged or of another bundle.
    """
    path = folder / f"{digest}.json"
    try:
        calibration = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: a calibration expected: {error}") from error
    d = manifest.model.inputs
    if (
        calibration.bundle != digest
        or any(len(r) != d for r in (calibration.center, calibration.scale, calibration.spread))
        or any(len(row) != count for _, count, row in own_rows(manifest, calibration))
    ):
        raise BundleError(f"{path}: a calibration of bundle {digest[:12]} with {d} features expected")
    return calibration


def _zip(raw_manifest: bytes, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in [(MANIFEST, raw_manifest), *sorted(files.items())]:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # ZIP's epoch: no clock in the bytes
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
    return buffer.getvalue()
