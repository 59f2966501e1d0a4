"""Many devices scored in one go: each is scored as it would be alone, and judged by its own core."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from covey import wire
from covey.bundle import Adapt, Calibration, read_bundle
from edge.core import AgentCore
from edge.loading import choose_runtime, open_model
from edge.scoring.runtimes import available, open_runtime
from edge.scoring.scorer import Scorer
from edge.scoring.together import Together
from edge.scoring.windows import Cutter, Windows, features
from edge_bundles import CHANNELS, D, make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "m.covey"
    make_bundle(path)
    return read_bundle(path)


def calibrations(bundle):
    """Two devices of one calibration, one of another, one without."""
    d = bundle.manifest.defaults

    def one(center, scale):
        return Calibration(
            "covey-calibration/1", bundle.digest, "2026-01-01T00:00:00Z", 20, 1, [center] * D, [scale] * D, d.spread,
            d.thresholds, d.reference,
        )  # fmt: skip

    shared = one(0.3, 1.5)
    return [shared, one(-1.0, 0.5), shared, None]


def portions(rng):
    """Ten calls of mixed windows of four devices; flights change on the way."""
    flight = np.zeros(4, np.int64)
    for _ in range(10):
        device = rng.integers(0, 4, rng.integers(0, 30))
        flight += rng.random(4) < 0.2
        yield device, rng.standard_normal((len(device), D)).astype(np.float32) * 2, flight[device]


@pytest.mark.parametrize("runtime", available())
def test_each_device_scores_as_it_would_alone(bundle, runtime):
    network = open_runtime(runtime, bundle.model(runtime))
    made = calibrations(bundle)
    alone = [Scorer(bundle.manifest, network, runtime, one) for one in made]
    together = Together(bundle.manifest, network, made)
    for device, phi, flight in portions(np.random.default_rng(5)):
        scored = together.score(device, phi, flight)
        for k, scorer in enumerate(alone):
            mine = device == k
            expected = scorer.score_features(phi[mine], flight[mine])
            for name in ("raw", "score", "z", "error"):
                np.testing.assert_array_equal(getattr(scored, name)[mine], getattr(expected, name), err_msg=name)


def test_no_window_at_all_is_fine(bundle):
    runtime = choose_runtime(bundle, ())
    together = Together(bundle.manifest, open_runtime(runtime, bundle.model(runtime)), [None])
    none = np.empty(0, np.int64)
    assert len(together.score(none, np.empty((0, D), np.float32), none).score) == 0


def test_judged_elsewhere_scored_windows_raise_the_same_alarms(bundle):
    runtime = choose_runtime(bundle, ())
    calibration = calibrations(bundle)[0]
    model = open_model(bundle, 1, runtime, calibration)
    samples = np.random.default_rng(1).standard_normal((120, 2)).astype(np.float32)
    samples[60:90, 0] += 9.0

    def traces():
        numbers = iter(range(1, 100))
        return lambda: (f"{next(numbers):032x}", "")

    whole, parts = AgentCore("d", model, traces()), AgentCore("d", model, traces())
    for core in (whole, parts):
        core.begin_flight("f", CHANNELS)
    direct = whole.push(samples, 50.0)

    windows = Cutter(model.manifest.inputs).push(samples, 50.0)
    phi = features(windows, model.manifest.inputs)
    together = Together(model.manifest, model.network, [calibration])
    scored = together.score(np.zeros(len(windows), np.int64), phi, windows.flight)
    judged = parts.judge(windows, scored)
    assert [r.alarm for r in judged.alarms] == [r.alarm for r in direct.alarms] != []
    assert (judged.windows, judged.first_s, judged.kept) == (direct.windows, direct.first_s, [])
    health = wire.Health(0, 0.0, 0, 0, 0, 0)
    reported = wire.Reported(1, model.digest, runtime)
    summaries = [core.summary.build(1.0, core.threshold, reported, health) for core in (whole, parts)]
    assert summaries[0] == summaries[1]
    assert isinstance(windows, Windows)


def test_scored_together_a_device_adapts_as_it_would_alone(bundle):
    runtime = choose_runtime(bundle, ())
    scoring = msgspec.structs.replace(bundle.manifest.scoring, adapt=Adapt(hold_windows=40, hold_share=0.0))
    made = calibrations(bundle)[0]
    model = replace(
        open_model(bundle, 1, runtime, made), manifest=msgspec.structs.replace(bundle.manifest, scoring=scoring)
    )
    samples = np.random.default_rng(1).standard_normal((4000, 2)).astype(np.float32) * 0.5
    samples[400:] += 5.0

    def traces():
        numbers = iter(range(1, 100))
        return lambda: (f"{next(numbers):032x}", "")

    whole, parts = AgentCore("d", model, traces()), AgentCore("d", model, traces())
    for core in (whole, parts):
        core.begin_flight("f", CHANNELS)
    direct = whole.push(samples, 50.0)
    windows = Cutter(model.manifest.inputs).push(samples, 50.0)
    phi = features(windows, model.manifest.inputs)
    scored = Together(model.manifest, model.network, [made]).score(
        np.zeros(len(windows), np.int64), phi, windows.flight
    )
    judged = parts.judge(windows, scored)
    assert [r.alarm for r in judged.alarms] == [r.alarm for r in direct.alarms]
    assert [r.alarm.state for r in judged.alarms] == ["begin", "end"]
