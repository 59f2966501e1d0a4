"""The group's center and scale: one device cannot decide them."""

from __future__ import annotations

import numpy as np

from federated.families.defaults import pool_affine


def told(center, scale=1.0):
    return {"center": np.array([center]), "scale": np.array([scale])}


def test_scale_knows_how_far_devices_lie_apart():
    pooled = pool_affine([told(0.0), told(2.0)])
    assert pooled["center"].tolist() == [1.0]
    np.testing.assert_allclose(pooled["scale"], [np.sqrt(1.0 + 1.0)])


def test_one_far_center_and_one_huge_scale_move_little():
    honest = [told(center) for center in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    before = pool_affine(honest)["scale"][0]
    after = pool_affine([*honest[:-1], told(1e9, 1e9)])
    # the far one, beyond six times the median distance 1, is left out
    np.testing.assert_allclose(after["scale"], [np.sqrt(1.0 + np.var([-2, -1, 0, 1]))])
    assert after["center"].tolist() == [0.0]
    assert after["scale"][0] <= before
