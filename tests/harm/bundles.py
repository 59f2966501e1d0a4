"""Bundles that are wrong in every way we could think of, made from a right one; the same seed makes the same ones.

Some are broken as files (truncated, bits flipped, odd ZIPs), which `read_bundle` refuses. The others are whole again, with
digests that hold, as if somebody who may sign had made them: with a model, golden files or a manifest that is not right.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import msgspec

from covey.bundle import MANIFEST, MODEL_OF_RUNTIME, Bundle, golden_output, sha256, unpack

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

FILE_WAYS = ("truncate", "flip", "insert", "zeros", "zip")
MODEL_WAYS = ("model cut", "model flip", "model noise", "model swap", "model empty", "golden", "manifest")


def corrupt(good: bytes, other: bytes, runtime: str, rng: random.Random) -> tuple[str, bytes]:
    """(what was done, the bytes of a bundle that is not right).

    Args:
        good: a bundle.
        other: another one, of the same shape and with other weights.
        runtime: whose model and golden outputs are spoilt.
        rng: the caller's.
    """
    if rng.random() < 0.4:
        way = rng.choice(FILE_WAYS)
        what, content = _FILE[way](good, rng) if way != "zip" else _odd_zip(good, rng)
        return what, content if content != good else good[:-1]
    way = rng.choice(MODEL_WAYS)
    bundle = unpack(good, "good")
    files = dict(bundle.files)
    manifest: Any = msgspec.json.decode(msgspec.json.encode(bundle.manifest))
    name = MODEL_OF_RUNTIME[runtime]
    model = files[name]
    what = way
    if way == "model cut":
        files[name] = model[: rng.randrange(len(model))]
    elif way == "model flip":
        what, files[name] = _flip(model, rng)
    elif way == "model noise":
        at = rng.randrange(len(model))
        files[name] = model[:at] + rng.randbytes(min(rng.randrange(1, 400), len(model) - at)) + model[at + 400 :]
    elif way == "model swap":
        files[name] = rng.choice(
            (_of(other).files[name], files["model.tflite" if name == "model.onnx" else "model.onnx"])
        )
    elif way == "model empty":
        files[name] = b""
    elif way == "golden":
        what = _spoil_golden(files, golden_output(runtime), rng)
    else:
        what = _spoil_manifest(manifest, runtime, rng)
    return what, repack(manifest, files)


def repack(manifest: dict[str, Any], files: dict[str, bytes]) -> bytes:
    """A bundle's bytes from a manifest that may say anything; the digests hold."""
    entries = {name: {"sha256": sha256(files[name]), "size_bytes": len(files[name])} for name in sorted(files)}
    raw = json.dumps(manifest | {"files": entries} if "files" in manifest else manifest).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in [(MANIFEST, raw), *sorted(files.items())]:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def _of(content: bytes) -> Bundle:
    return unpack(content, "other")


def _truncate(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    return "truncate", content[: rng.randrange(len(content))]


def _flip(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    out = bytearray(content)
    count = rng.choice((1, 1, 3, 30))
    for at in rng.sample(range(len(out)), min(count, len(out))):
        out[at] ^= 1 << rng.randrange(8)
    return f"flip {count}", bytes(out)


def _insert(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    at = rng.choice((0, len(content), rng.randrange(len(content))))
    return "insert", content[:at] + rng.randbytes(rng.randrange(1, 300)) + content[at:]


def _zeros(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    at, size = rng.randrange(len(content)), rng.randrange(1, 4096)  # a block that never reached the card
    return "zeros", (content[:at] + bytes(min(size, len(content) - at)) + content[at + size :])[: len(content)]


_FILE: dict[str, Callable[[bytes, random.Random], tuple[str, bytes]]] = {
    "truncate": _truncate,
    "flip": _flip,
    "insert": _insert,
    "zeros": _zeros,
}


def _odd_zip(good: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What ZIP allows and a bundle does not."""
    bundle = unpack(good, "good")
    entries = [(MANIFEST, msgspec.json.encode(bundle.manifest)), *sorted(bundle.files.items())]
    what = rng.choice(("bomb", "path", "absolute", "twice", "link", "comment", "deflated", "folder", "many", "missing"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries if what != "missing" else entries[: rng.randrange(len(entries))]:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            if what == "deflated":
                info.compress_type = zipfile.ZIP_DEFLATED
            if what == "link" and name == "model.onnx":
                info.external_attr = 0o120777 << 16
                content = b"/etc/passwd"  # noqa: PLW2901  # what a symbolic link in a ZIP is
            archive.writestr(info, content)
        if what == "bomb":
            archive.writestr("more", bytes(200 * 1024 * 1024), zipfile.ZIP_DEFLATED, 9)
        elif what in ("path", "absolute"):
            archive.writestr("../../escaped" if what == "path" else "/tmp/escaped-covey", b"x")
        elif what == "comment":
            archive.comment = b"signed by nobody"
        elif what == "folder":
            archive.writestr("golden/", b"")
        elif what == "many":
            for n in range(2000):
                archive.writestr(f"f{n}", b"")
        elif what == "twice":
            archive.fp.write(b"")  # type: ignore[union-attr]  # open until the block ends
    content = buffer.getvalue()
    if what == "twice":
        with zipfile.ZipFile(buffer, "a") as archive:
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                archive.writestr("model.tflite", b"another one")
        content = buffer.getvalue()
    return f"zip {what}", content


def _spoil_golden(files: dict[str, bytes], output: str, rng: random.Random) -> str:
    name = rng.choice((output, "golden/input.f32"))
    what = rng.choice(("cut", "nan", "other", "gone", "more"))
    content = files[name]
    if what == "cut":
        files[name] = content[: rng.randrange(len(content))]
    elif what == "nan":
        files[name] = b"\x00\x00\xc0\x7f" + content[4:]
    elif what == "other":
        files[name] = b"\x00\x00\x20\xc2" * (len(content) // 4)  # -40
    elif what == "gone":
        del files[name]
    else:
        files[name] = content + bytes(4)
    return f"golden {what}"


def _spoil_manifest(manifest: dict[str, Any], runtime: str, rng: random.Random) -> str:
    """One value that is wrong by itself or does not fit the others."""
    model, golden, inputs = manifest["model"], manifest["golden"], manifest["inputs"]
    defaults, scoring = manifest["defaults"], manifest["scoring"]
    wrong: list[tuple[str, Callable[[], object]]] = [
        ("more inputs", lambda: model.update(inputs=model["inputs"] + 1)),
        ("other shape", lambda: model.update(outputs=model["outputs"] * 2)),
        ("huge window", lambda: inputs.update(window=10**9)),
        ("many golden", lambda: golden.update(windows=60_000)),
        ("no golden", lambda: golden.update(windows=0)),
        ("no tolerance", lambda: golden["tolerance"].pop(runtime)),
        ("negative tolerance", lambda: golden["tolerance"].update({runtime: -1.0})),
        ("no threshold", lambda: defaults["thresholds"].pop(runtime)),
        ("NaN scale", lambda: defaults.update(scale=[float("nan")] * len(defaults["scale"]))),
        ("infinite center", lambda: defaults.update(center=[float("inf")] * len(defaults["center"]))),
        ("scale of zero", lambda: defaults.update(scale=[0.0] * len(defaults["scale"]))),
        ("short spread", lambda: defaults.update(spread=defaults["spread"][:-1])),
        ("channel outside", lambda: scoring.update(channel_of_feature=[99] * model["inputs"])),
        ("text for number", lambda: scoring.update(begin_windows="two")),
        ("unknown key", lambda: manifest.update(hook="import os")),
        ("unknown feature", lambda: inputs["features"].update(kind="exec")),
        ("other format", lambda: manifest.update(format="covey-bundle/2")),
        ("nested", lambda: manifest.update(evidence=json.loads("[" * 900 + "]" * 900))),
        ("no channels", lambda: inputs.update(channels=[])),
        ("many channels", lambda: inputs.update(channels=["x" * 1000] * 900)),
        ("files for others", lambda: manifest.pop("files")),
        ("huge number", lambda: inputs.update(window=10**400)),
    ]
    what, do = rng.choice(wrong)
    do()
    return f"manifest {what}"
