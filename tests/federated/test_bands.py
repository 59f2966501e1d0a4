"""Frequency bands from the plan to the bundle to a window's features."""

import json
import threading

import msgspec
import numpy as np
import pytest

from covey.bands import Band
from covey.bundle import Features, Inputs, Manifest, read_bundle
from covey.errors import DataError
from edge.scoring.spectral import band_features
from edge.scoring.windows import DRONE_CHANNELS, drone_channels_of, plain_features
from federated.config import Plan, choose_inputs
from federated.training import run
from federated_rigs import write_csv

SHAKE = Band(10.0, 40.0, "correlation")
LOUD = Band(20.0, 30.0, "energy")


def offers(rate_hz=100.0):
    return [(name, DRONE_CHANNELS, rate_hz, 0) for name in ("a", "b")]


def inputs(*bands):
    return choose_inputs(Plan("pca", bands=list(bands)), offers(), DRONE_CHANNELS)


def hover(seed, rows=400):
    """(rows, 7) of a drone in the air."""
    rng = np.random.default_rng(seed)
    motors = 40_000 + 500 * rng.standard_normal((rows, 4))
    shake = rng.standard_normal((rows, 1)) * (0.1, -0.1, 0.05) + 0.02 * rng.standard_normal((rows, 3))
    return np.concatenate([motors, shake], axis=1).astype(np.float32)


def test_each_band_adds_three_features_behind_the_eleven_and_they_count_for_accelerations():
    samples = hover(1).reshape(4, 100, 7)
    plain, both = plain_features(samples, inputs()), plain_features(samples, inputs(SHAKE, LOUD))
    assert (plain.shape, both.shape, both.dtype) == ((4, 11), (4, 17), np.float32)
    assert np.array_equal(both[:, :11], plain)
    spectral = band_features(samples[:, :, 4:7], 100.0, [SHAKE, LOUD])
    assert np.allclose(both[:, 11:], spectral, atol=1e-6)
    assert drone_channels_of(inputs()) == (0, 1, 2, 3, -1, 4, 5, 6, 4, 5, 6)
    assert drone_channels_of(inputs(SHAKE, LOUD))[11:] == (4, 5, 6, 4, 5, 6)


def test_a_plan_whose_bands_do_not_fit_the_data_is_refused():
    with pytest.raises(DataError, match=r"from 1 to 25 Hz and 1 Hz wide expected, 10 to 40 found"):
        choose_inputs(Plan("pca", bands=[SHAKE]), offers(rate_hz=50.0), DRONE_CHANNELS)
    table = [("a", ("x", "y"), 100.0, 0)]
    with pytest.raises(DataError, match="no bands expected for features temporal, 1 came"):
        choose_inputs(Plan("pca", bands=[SHAKE]), table, DRONE_CHANNELS)


def test_inputs_without_bands_are_written_as_before():
    told = msgspec.json.decode(msgspec.json.encode(inputs()))
    assert told["features"] == {"kind": "drone", "airborne_above": 15_000.0, "settle_s": 0.5}
    old = b'{"kind":"drone","airborne_above":15000.0,"settle_s":0.5}'
    assert msgspec.json.decode(old, type=Features) == inputs().features


def flights(folder):
    """Two drones as clients, two flights each, written as tables."""
    nodes = {}
    for number, drone in enumerate(("a", "b")):
        files = [write_csv(folder / f"{drone}{n}.csv", hover(10 * number + n), DRONE_CHANNELS) for n in (1, 2)]
        nodes[drone] = {"files": json.dumps([str(file) for file in files])}
    return nodes


def fitted(tmp_path, *bands):
    plan = Plan("pca", features="drone", window=40, hop=10, bands=list(bands), commission_windows=10)
    out = tmp_path / "bundle.zip"
    run(
        plan,
        flights(tmp_path),
        engine="simulation",
        out=out,
        initial=None,
        checkpoint=None,
        resume=False,
        stop=threading.Event(),
    )
    return read_bundle(out).manifest


def test_a_bundle_carries_its_bands_and_checks_them(tmp_path):
    # Tables have no clock: one row a "second", so bands are shares of it
    manifest = fitted(tmp_path, Band(0.1, 0.5, "correlation"))
    assert manifest.inputs == Inputs(
        list(DRONE_CHANNELS),
        1.0,
        40,
        10,
        Features("drone", 15_000.0, 0.5, [Band(0.1, 0.5, "correlation")]),
    )
    assert (manifest.model.inputs, len(manifest.scoring.channel_of_feature)) == (14, 14)
    told = msgspec.to_builtins(manifest)
    for changed, message in (
        ({"bands": []}, "model.inputs: 11 expected for features drone, 14 found"),
        ({"bands": [{"low_hz": 0.1, "high_hz": 0.6, "measure": "energy"}]}, "0.1 to 0.6 found"),
        ({"kind": "lag"}, "inputs.features.bands: none expected for features lag"),
    ):
        broken = {**told, "inputs": {**told["inputs"], "features": {**told["inputs"]["features"], **changed}}}
        with pytest.raises(msgspec.ValidationError, match=message):
            msgspec.convert(broken, Manifest)
