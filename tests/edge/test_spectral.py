"""Spectral features of windows, worked by hand from sines and from sums over samples."""

import math

import numpy as np
import pytest

from covey.bands import Band, wrong_bands
from edge.scoring.spectral import band_features

RATE_HZ, T = 100.0, 100
WHOLE = Band(1.0, 50.0, "correlation")


def seconds():
    return np.arange(T) / RATE_HZ


def sine(hz, amplitude=1.0, phase=0.0):
    return amplitude * np.sin(2 * np.pi * hz * seconds() + phase)


def window(x, y, z):
    """(1, T, 3)."""
    return np.stack([x, y, z], axis=1)[None]


def test_a_sine_of_amplitude_a_has_the_energy_a_over_root_two_in_its_band_and_none_elsewhere():
    shaking = window(sine(20, 0.3), sine(20, 3.0, phase=1.0), np.zeros(T))
    inside, outside = Band(15, 25, "energy"), Band(30, 50, "energy")
    found = band_features(shaking, RATE_HZ, [inside, outside])[0]
    assert found.shape == (6,)
    # Hann's main lobe is 4 bins wide: all of a sine on a bin lies within two bins of it
    assert found[:2] == pytest.approx([math.log(0.3 / math.sqrt(2)), math.log(3 / math.sqrt(2))], abs=1e-3)
    assert found[2] == pytest.approx(math.log(1e-4))  # the floor
    assert found[3:].max() < math.log(1e-3)


def test_correlation_says_how_the_axes_go_together_whatever_their_size():
    x = sine(20)
    quarter = sine(20, 1.0, phase=math.pi / 2)
    found = band_features(window(x, 100 * x, -0.01 * x), RATE_HZ, [WHOLE])[0]
    assert found == pytest.approx([1, -1, -1], abs=1e-4)  # xy, yz, zx
    found = band_features(window(x, quarter, x + quarter), RATE_HZ, [WHOLE])[0]
    assert found == pytest.approx([0, math.sqrt(0.5), math.sqrt(0.5)], abs=2e-3)


def test_correlation_of_a_band_leaves_out_what_lies_below_it():
    slow, fast = sine(4, 5.0), sine(30, 0.1)
    found = band_features(window(slow + fast, slow - fast, fast), RATE_HZ, [Band(10, 50, "correlation")])[0]
    assert found == pytest.approx([-1, -1, 1], abs=1e-3)


def test_correlation_over_all_frequencies_is_that_of_the_tapered_samples():
    noise = np.random.default_rng(7).standard_normal((5, T, 3))
    noise[:, :, 1] += noise[:, :, 0]
    found = band_features(noise, RATE_HZ, [Band(1, 50, "correlation")])
    for n in range(5):
        tapered = (noise[n] - noise[n].mean(axis=0)) * np.hanning(T)[:, None]
        # The second method: in time, less the constant part that the band leaves out. Bin 50 has no twin: counted half.
        spectrum = np.fft.fft(tapered, axis=0)
        spectrum[0] = 0
        spectrum[50] *= math.sqrt(2)
        rest = np.fft.ifft(spectrum, axis=0).real
        table = rest.T @ rest / np.outer(np.linalg.norm(rest, axis=0), np.linalg.norm(rest, axis=0))
        assert found[n] == pytest.approx([table[0, 1], table[1, 2], table[2, 0]], abs=1e-6)


def test_an_axis_that_stands_still_correlates_with_nothing_and_a_missing_sample_is_told():
    still = window(sine(20), np.full(T, 9.81), sine(20))
    assert band_features(still, RATE_HZ, [WHOLE])[0] == pytest.approx([0, 0, 1], abs=1e-4)
    still[0, 3, 0] = np.nan
    found = band_features(still, RATE_HZ, [WHOLE, Band(10, 20, "energy")])[0]
    assert np.isnan(found[[0, 2, 3]]).all()
    assert np.isfinite(found[[4, 5]]).all()


def test_windows_do_not_depend_on_those_beside_them():
    noise = np.random.default_rng(1).standard_normal((4, T, 3))
    bands = [WHOLE, Band(10, 30, "energy")]
    alone = np.concatenate([band_features(noise[n : n + 1], RATE_HZ, bands) for n in range(4)])
    assert np.array_equal(band_features(noise, RATE_HZ, bands), alone)


def test_a_band_ends_on_a_bin_and_both_ends_count():
    found = band_features(window(sine(10), sine(30), sine(10) + sine(30)), RATE_HZ, [Band(10, 30, "energy")])[0]
    # Hann spreads a sine over three bins as 1 : 4 : 1 of its energy, and one of them lies outside here
    half = 0.5 * math.log(0.5 * 5 / 6)
    assert found[:2] == pytest.approx([half, half], abs=2e-2)


@pytest.mark.parametrize(
    ("low_hz", "high_hz", "fits"),
    [(10, 50, True), (1, 2, True), (0.5, 20, False), (10, 51, False), (20, 20.5, False), (30, 10, False)],
)
def test_a_band_lies_between_the_resolution_and_half_the_rate_and_is_a_bin_wide(low_hz, high_hz, fits):
    wrong = wrong_bands([Band(low_hz, high_hz, "energy")], RATE_HZ, T)
    assert bool(wrong) is not fits
    if wrong:
        assert wrong == [
            f"inputs.features.bands: from 1 to 50 Hz and 1 Hz wide expected, {low_hz:g} to {high_hz:g} found"
        ]
