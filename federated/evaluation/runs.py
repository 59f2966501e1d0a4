"""From a plan and devices to bundles, and from a bundle and a device to scores: the road that ships, nothing beside it.

A bundle comes from the ServerApp (simulation engine), its int8 models run in the runtimes of a device, the device's own
calibration and `score_rows` do the rest. The float graph is what int8 is compared with, through the same calibration.
"""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from covey.bundle import STATE, read_bundle
from covey.errors import AggregationError, DataError, UsageError
from edge.scoring.calibration import calibrate
from edge.scoring.rows import score_rows
from edge.scoring.runtimes import available, open_runtime
from edge.scoring.scorer import Scorer
from federated.config import Gates, Job, settled
from federated.engines.home import run_server
from federated.engines.simulation import SimulationGrid
from federated.evaluate import FloatNetwork, refuse_worse
from federated.evaluation.central import CentralGrid
from federated.families import family_for, family_of, unpack_state
from federated.own import load
from federated.streams import stream_of
from federated.training import read_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from covey.bundle import Bundle, Calibration
    from edge.scoring.rows import RowScores
    from edge.scoring.scorer import Network
    from edge.scoring.windows import Windows
    from edge.sources import Recording
    from federated.config import Plan

FP32 = "fp32"
INT8 = ("onnx", "litert")  # tflite-runtime runs LiteRT's model
AE_ROUNDS = 10  # an autoencoder learns over rounds; pca is done after one

_PATIENCE_S = 36_000.0  # devices of this process answer one after the other
_OPEN = Gates(int8_error=1e9, int8_bias=1e9, false_alarms=1.0)  # a refused bundle is told, and measured as well


@dataclass(frozen=True)
class Trained:
    """One training run.

    Attributes:
        bundle: what would be released.
        networks: runtime -> its model; `fp32` is the float graph.
        refused: why the gates would not release it, or None.
        failed: device -> why it took no part.
        seconds: how long it took.
    """

    bundle: Bundle
    networks: dict[str, Network]
    refused: str | None
    failed: dict[str, str]
    seconds: float


def int8_runtimes() -> list[str]:
    """Int8 runtimes that are compared.

    Raises:
        UsageError: none is installed.
    """
    here = [name for name in INT8 if name in available()]
    if not here:
        raise UsageError(f"evaluate: one of {', '.join(INT8)} expected, none installed: pip install 'covey[federated]'")
    return here


def for_family(plan: Plan, family: Literal["pca", "dense-ae"]) -> Plan:
    """The same plan for another family, with that family's own rule and as many rounds as it needs."""
    if plan.family == family:
        return plan
    rounds = 1 if family_of(family).one_shot else AE_ROUNDS
    return alone(msgspec.structs.replace(plan, family=family, rounds=rounds, strategy="auto"))


def alone(plan: Plan) -> Plan:
    """The same plan for one learner: nobody to hide from, to trim, to draw from or to send a rounded update to."""
    if plan.rule == "sum":
        return msgspec.structs.replace(plan, masked=False, privacy=None, fraction=1.0)
    return msgspec.structs.replace(
        plan, strategy="fedavg", clip="none", compress="none", masked=False, privacy=None, fraction=1.0
    )


def train(plan: Plan, nodes: Mapping[str, Mapping[str, str]], *, central: bool = False) -> Trained:
    """One run over devices in this process.

    Args:
        plan: its gates are judged, not obeyed; its time-out and quorum are not those of one process.
        nodes: device -> node configuration.
        central: all windows in one place instead of federated.

    Raises:
        CoveyError: no bundle comes out of it.
    """
    began = time.monotonic()
    runtimes = int8_runtimes()
    single = central or len(nodes) == 1
    wanted = msgspec.structs.replace(alone(plan) if single else plan, min_clients=1, timeout_s=_PATIENCE_S, gates=_OPEN)
    grid = CentralGrid(nodes) if central else SimulationGrid(nodes, threading.Event())
    with tempfile.TemporaryDirectory(prefix="covey-evaluate-") as folder:
        out = Path(folder) / "bundle.zip"
        run_server(grid, Job(wanted, str(out), str(Path(folder) / "rounds")))
        report = read_report(Path(folder) / "rounds")
        bundle = read_bundle(out)
    refused = None
    try:
        refuse_worse(report.evidence, plan.gates)
    except AggregationError as error:
        refused = str(error)
    state = unpack_state(bundle.files[STATE], STATE)
    inputs = bundle.manifest.inputs
    done = settled(wanted, inputs, *stream_of(bundle.manifest))
    graph = family_for(done).to_graph(done, state, drone=inputs.features.kind == "drone")
    networks: dict[str, Network] = {FP32: FloatNetwork(graph)}
    networks |= {name: open_runtime(name, bundle.model(name)) for name in runtimes}
    failed = {} if central else report.failed
    return Trained(bundle, networks, refused, failed, time.monotonic() - began)


def calibrations(trained: Trained, windows: Windows, *, personal: bool) -> dict[str, Calibration]:
    """What the device adds from its normal windows, by runtime: a device has one, and calibrates with that one.

    Args:
        trained: the bundle and its runtimes.
        windows: of the device.
        personal: everything a device's calibration adds; else its center and scale alone, with the group's thresholds and
            weights of outputs.

    Raises:
        DataError: too few windows.
    """
    manifest, digest = trained.bundle.manifest, trained.bundle.digest
    networks = trained.networks
    if manifest.scoring.outputs is None:  # nothing but the threshold is the runtime's: one pass over the windows
        one = calibrate(manifest, digest, windows, networks, 0.0, personal=personal)
        own = dict.fromkeys(networks, one)
    else:
        own = {
            name: calibrate(manifest, digest, windows, {name: network}, 0.0, personal=personal)
            for name, network in networks.items()
        }
    if personal:
        return own
    group = manifest.defaults
    sibling = next(name for name in INT8 if name in trained.networks)  # the group knows no float threshold
    out: dict[str, Calibration] = {}
    for name, one in own.items():
        known = sibling if name == FP32 else name
        out[name] = msgspec.structs.replace(
            one,
            spread=group.spread,
            thresholds={name: group.thresholds[known]},
            reference={name: group.reference[known]},
        )
    return out


def windows_of(trained: Trained, plan: Plan, node: Mapping[str, str]) -> Windows:
    """A device's normal windows, as its client reads them.

    Raises:
        DataError: it holds none.
    """
    windows = load(dict(node), plan, trained.bundle.manifest.inputs).windows
    if not len(windows):
        raise DataError(f"{node.get('files', 'device')}: at least one window expected, none found")
    return windows


def score(trained: Trained, recording: Recording, own: Mapping[str, Calibration]) -> dict[str, RowScores]:
    """Runtime -> scores and alarms of every row, told from the rows up to it.

    Raises:
        DataError, BundleError: the recording or the model cannot be used.
    """
    manifest = trained.bundle.manifest
    return {
        name: score_rows(recording, Scorer(manifest, network, name, own[name], adaptive=True))
        for name, network in trained.networks.items()
    }
