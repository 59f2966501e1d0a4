"""`covey model score | show | check | bench`: a bundle on files and on this machine. Imports nothing heavy before a command runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from covey.errors import CoveyError, MissingExtra, UsageError

if TYPE_CHECKING:
    from covey.bundle import Bundle, Calibration
    from edge.scoring.runtimes import Runtime
    from edge.sources import Recording

app = typer.Typer(rich_markup_mode=None)

_ROWS = re.compile(r"(\d{0,15}):(\d{1,15})")

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's file.")]
RuntimeName = Annotated[
    str | None, typer.Option("--runtime", help="onnx, litert or tflite; the best one here by default.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.callback()
def _model() -> None:
    """Models on files."""


@app.command(epilog="Example: covey model score model.zip --data valve.csv --calibrate 0:400 --out scores.csv")
def score(
    bundle_path: BundlePath,
    data: Annotated[Path, typer.Option("--data", help="CSV, NPZ or Crazyflie log.")],
    calibrate: Annotated[
        str | None,
        typer.Option("--calibrate", help="Normal data of this device: A:B, rows of the data file, or another file."),
    ] = None,
    runtime: RuntimeName = None,
    rows: Annotated[str | None, typer.Option("--rows", help="A:B: rows to score, counted from 0, B left out.")] = None,
    array: Annotated[
        str, typer.Option("--array", help="Array of an NPZ to score; calibration files give `train`.")
    ] = "test",
    out: Annotated[str, typer.Option("--out", help="File to write; - is stdout.")] = "-",
) -> None:
    """Score a file: one line per row, `row,score,threshold,alarm`, each told from the rows up to it only.

    High score means anomalous. Rows before the first window have no score. The file is written whole or not at all.
    """
    from covey.bundle import read_bundle
    from covey.runtime import write_whole
    from edge.models.check import check_golden
    from edge.scoring.rows import score_rows
    from edge.scoring.scorer import Scorer

    span = _span(rows)
    bundle = read_bundle(bundle_path)
    name, network = _open(bundle, runtime)
    check_golden(bundle, name, network)
    calibration = None if calibrate is None else _calibration(bundle, name, network, data, calibrate, array)
    recording = _read(data, bundle, span, array)
    found = score_rows(recording, Scorer(bundle.manifest, network, name, calibration, adaptive=True))
    content = "".join(found.lines(span[0] if span else 0))
    if out == "-":
        sys.stdout.write(content)
    else:
        try:
            write_whole(Path(out), content.encode())
        except OSError as error:
            raise UsageError(f"{out}: cannot be written: {error.strerror}") from error
    typer.echo(
        f"{len(found.score)} rows, {found.windows} windows, {int(found.alarm.sum())} rows in alarm, "
        f"threshold {found.threshold:.4g}, runtime {name}",
        err=True,
    )


@app.command(epilog="Example: covey model show model.zip --json")
def show(bundle_path: BundlePath, as_json: AsJson = False) -> None:
    """Tell what a bundle holds, after its digests; no model is loaded."""
    import msgspec

    from covey.bundle import read_bundle

    bundle = read_bundle(bundle_path)
    manifest = bundle.manifest
    if as_json:
        whole = {"digest": bundle.digest, "size_bytes": bundle.size_bytes, "manifest": msgspec.to_builtins(manifest)}
        typer.echo(msgspec.json.encode(whole).decode())
        return
    inputs, model, scoring = manifest.inputs, manifest.model, manifest.scoring
    lines: list[tuple[str, object]] = [
        ("digest", bundle.digest),
        ("size", f"{bundle.size_bytes} bytes"),
        ("group", manifest.group),
        ("family", manifest.family),
        ("made", f"{manifest.made} by covey {manifest.made_by}"),
        ("channels", ", ".join(inputs.channels)),
        ("windows", f"{inputs.window} samples every {inputs.hop}, {inputs.rate_hz:g} samples/s"),
        ("features", f"{inputs.features.kind}, {model.inputs} values"),
        ("model", f"{model.kind}, {model.inputs} -> {model.outputs}"),
        (
            "alarm",
            f"begins after {scoring.begin_windows} windows above the threshold, ends after {scoring.end_windows}",
        ),
        ("calibration", f"from {scoring.commission_windows} normal windows on"),
        *((f"threshold {name}", f"{value:.6g}") for name, value in sorted(manifest.defaults.thresholds.items())),
        *((f"evidence {name}", f"{value:.6g}") for name, value in sorted(manifest.evidence.items())),
        *((name, f"{entry.size_bytes} bytes") for name, entry in sorted(manifest.files.items())),
    ]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        typer.echo(f"{name:<{width}}  {value}")


@app.command(epilog="Example: covey model check model.zip --runtime litert")
def check(bundle_path: BundlePath, runtime: RuntimeName = None, as_json: AsJson = False) -> None:
    """Check a bundle's digests, and its golden windows on every runtime here, each in a limited child process."""
    import msgspec

    from covey.bundle import read_bundle
    from edge.models.check import check_in_subprocess

    bundle = read_bundle(bundle_path)
    failed: CoveyError | None = None
    results: list[dict[str, Any]] = []
    for name in [runtime] if runtime is not None else _usable(bundle):
        try:
            worst = check_in_subprocess(bundle_path, name)
        except CoveyError as error:
            failed = failed or error
            results.append({"runtime": name, "ok": False, "detail": str(error)})
        else:
            results.append({"runtime": name, "ok": True, "worst": worst})
    if as_json:
        typer.echo(msgspec.json.encode({"digest": bundle.digest, "ok": failed is None, "runtimes": results}).decode())
    else:
        typer.echo(f"{bundle.digest}  digests hold")
        for result in results:
            said = f"ok, at most {result['worst']:.0%} of the tolerance apart" if result["ok"] else "failed"
            typer.echo(f"{result['runtime']:<7} {said}")
    if failed is not None:
        raise failed


@app.command(epilog="Example: covey model bench model.zip --json")
def bench(bundle_path: BundlePath, runtime: RuntimeName = None, as_json: AsJson = False) -> None:
    """Measure the network on every runtime here: time a window alone and among 64, and resident memory."""
    import msgspec

    from covey.bundle import read_bundle
    from edge.models.bench import bench as measure

    bundle = read_bundle(bundle_path)
    found = [measure(bundle_path, name) for name in ([runtime] if runtime is not None else _usable(bundle))]
    if as_json:
        typer.echo(msgspec.json.encode({"digest": bundle.digest, "runtimes": found}).decode())
        return
    typer.echo("runtime  version   kernels               us alone  us of 64  MB resident")
    for one in found:
        typer.echo(
            f"{one.runtime:<8} {one.version:<9} {one.provider:<21} {one.batch_1_us:>8.1f} {one.batch_64_us:>9.2f} "
            f"{one.resident_bytes / 1e6:>12.0f}"
        )


def _usable(bundle: Bundle) -> list[str]:
    """Runtimes that are here and that the bundle has a model and a threshold for, best first."""
    from covey.bundle import MODEL_OF_RUNTIME
    from edge.scoring.runtimes import available

    known = bundle.manifest.defaults.thresholds
    names = [name for name in available() if name in known and MODEL_OF_RUNTIME[name] in bundle.files]
    if not available():
        raise MissingExtra("edge", "ai_edge_litert")
    if not names:
        raise UsageError(
            f"a runtime of the bundle expected ({', '.join(sorted(known))}), here are {', '.join(available())}"
        )
    return names


def _open(bundle: Bundle, runtime: str | None) -> tuple[str, Runtime]:
    from covey.bundle import MODEL_OF_RUNTIME
    from edge.scoring.runtimes import RUNTIMES, open_runtime

    name = runtime if runtime is not None else _usable(bundle)[0]
    if name not in MODEL_OF_RUNTIME:
        raise UsageError(f"--runtime: one of {', '.join(RUNTIMES)} expected, {name!r} came")
    return name, open_runtime(name, bundle.model(name))


def _read(path: Path, bundle: Bundle, span: tuple[int, int] | None, array: str) -> Recording:
    from edge.sources.files import read_recording

    inputs = bundle.manifest.inputs
    return read_recording(path, inputs.channels, span, array, rate_hz=inputs.rate_hz)


def _calibration(bundle: Bundle, name: str, network: Runtime, data: Path, wanted: str, array: str) -> Calibration:
    """From rows of the data file, or from a file of its own."""
    import time

    from edge.scoring.calibration import calibrate
    from edge.scoring.windows import cut

    span = _span(wanted, "--calibrate") if _ROWS.fullmatch(wanted) else None
    normal = _read(data, bundle, span, array) if span else _read(Path(wanted), bundle, None, "train")
    windows = cut(normal, bundle.manifest.inputs)
    return calibrate(bundle.manifest, bundle.digest, windows, {name: network}, time.time())


def _span(text: str | None, option: str = "--rows") -> tuple[int, int] | None:
    if text is None:
        return None
    match = _ROWS.fullmatch(text)
    if match is None or int(match[1] or 0) >= int(match[2]):
        raise UsageError(f"{option}: A:B with A < B expected, {text!r} came")
    return int(match[1] or 0), int(match[2])
