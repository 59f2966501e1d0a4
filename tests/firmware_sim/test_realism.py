"""Figures that compare simulated with real flights, checked on signals whose answer is known."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from covey.errors import DataError
from firmware_sim import realism_cli
from firmware_sim.flights import plan_flights, write_flights
from firmware_sim.realism import (
    BANDS_HZ,
    TUNED,
    Source,
    band_rms,
    compare,
    figures_of,
    fly_like,
    read_real,
    welch,
)

REPOSITORY = Path(__file__).resolve().parents[2]
CRAZYPAD = Path(os.environ.get("COVEY_SHARED", REPOSITORY.parent / "shared")) / "data" / "crazypad"
needs_crazypad = pytest.mark.skipif(
    not (CRAZYPAD / "manifest.csv").is_file(), reason="the CrazyPAD logs are not at ../shared/data (or COVEY_SHARED)"
)


@pytest.fixture(scope="module")
def sim():
    app = typer.Typer()
    app.callback()(lambda: None)
    realism_cli.register(app)
    return app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("flights") / "made"
    write_flights(plan_flights(vehicles=2, healthy=2, damaged=1, seed=4), out, duration_s=13.0)
    return out


def source(motors=(30_000, 30_000, 30_000, 30_000), seconds=10.0, accelerations=None, drone="A", cut=None, rate=100.0):
    """Hover at 0.5 m with constant commands."""
    n = round(seconds * rate)
    t = np.arange(n) / rate
    samples = np.zeros((n, 10))
    samples[:, :4] = motors
    if accelerations is not None:
        samples[:, 4:7] = accelerations(t)
    samples[:, 7] = 3900 - 2.5 * t
    samples[:, 8] = 0.5
    return Source(drone, cut, rate, samples)


def test_the_density_of_white_noise_adds_up_to_its_variance():
    # Parseval: the sum of the density times the step is the variance, and it is flat: sigma^2 / (rate / 2)
    noise = 3.0 * np.random.default_rng(0).standard_normal(200_000)
    frequencies, density = welch(noise, 100.0)
    assert density.sum() * (frequencies[1] - frequencies[0]) == pytest.approx(9.0, rel=0.02)
    assert density[5:60] == pytest.approx(np.full(55, 9.0 / 50), rel=0.1)


def test_a_sine_has_half_its_amplitude_squared_in_its_band_and_nothing_elsewhere():
    t = np.arange(4000) / 100
    frequencies, density = welch(0.2 * np.sin(2 * np.pi * 20.0 * t), 100.0)
    assert band_rms(frequencies, density, 15, 30) == pytest.approx(0.2 / np.sqrt(2), rel=0.01)
    assert frequencies[density.argmax()] == pytest.approx(20, abs=0.8)
    # what leaks away from it: less than 1 % of 141 mg, by removing each block's mean
    assert band_rms(frequencies, density, 30, 50) < 1.4e-3
    assert band_rms(frequencies, density, 0.5, 5) < 1.4e-3


def test_figures_of_a_known_flight():
    def shake(t):
        # 50 mg amplitude: 35.36 mg rms in z at 10 Hz; x alternates by 20 mg at 40 Hz: 14.14 rms, y still
        return np.stack([0.02 * np.sin(2 * np.pi * 40 * t), 0 * t, 0.05 * np.sin(2 * np.pi * 10 * t)], axis=1)

    # mean 30,000; ratios -10 %, +10 %, +20 %, -20 %: standard deviation sqrt((1 + 1 + 4 + 4)/4 x 100) = 15.811 %
    found, ratios, _ = figures_of(source((27_000, 33_000, 36_000, 24_000), accelerations=shake))
    assert ratios == pytest.approx([-0.1, 0.1, 0.2, -0.2])
    assert found["rotor ratios, spread over the four"] == pytest.approx(15.811, abs=1e-3)
    assert found["motor command, mean"] == pytest.approx(100 * 30_000 / 65_535)
    assert found["motor command within 1 s"] == 0
    assert found["acceleration z within 1 s"] == pytest.approx(35.36, rel=0.01)
    assert found["acceleration z 5 to 15 Hz"] == pytest.approx(35.36, rel=0.02)
    # of x and y the mean power: 14.14 / sqrt(2) = 10
    assert found["acceleration x, y 30 to 50 Hz"] == pytest.approx(10.0, rel=0.02)
    assert found["battery slope"] == pytest.approx(-2.5)
    assert found["airborne"] == pytest.approx(10.0)


def test_a_flight_on_the_ground_has_no_figures():
    assert figures_of(source((0, 0, 0, 0))) is None
    assert figures_of(source(seconds=1.0)) is None


def test_a_change_is_counted_from_the_same_drones_healthy_flights():
    # A's M3 is 20 % above the mean when whole, B's 0; cut, they are at 30 and 10: both changed by 10 points
    healthy = [source((27_000, 33_000, 36_000, 24_000)), source(drone="B")]
    cut = [
        source((26_000, 33_000, 39_000, 22_000), cut=(3.0, 0.0)),
        source((29_000, 29_000, 33_000, 29_000), drone="B", cut=(3.0, 0.0)),
    ]
    groups = {"healthy": healthy, "cut 3 mm": cut}
    found = compare(groups, groups)
    rows = {(r.group, r.figure): r for r in found.rows}
    assert rows["cut 3 mm", "ratio of the damaged rotor, change"].sim == pytest.approx(10.0)
    assert ("healthy", "ratio of the damaged rotor, change") not in rows


def test_more_than_a_factor_of_two_apart_is_called_off():
    still, busy = source(), source((40_000, 20_000, 40_000, 20_000))
    slight = source((31_000, 29_000, 31_000, 29_000))
    rows = {r.figure: r for r in compare({"healthy": [slight]}, {"healthy": [busy]}).rows}
    # 33.3 % against 3.33 %
    assert rows["rotor ratios, spread over the four"].ratio == pytest.approx(0.1)
    assert rows["rotor ratios, spread over the four"].off
    assert not rows["battery slope"].off
    rows = {r.figure: r for r in compare({"healthy": [still]}, {"healthy": [busy]}).rows}
    assert rows["rotor ratios, spread over the four"].off  # nothing against something


def test_spread_between_flights_is_pooled_over_drones():
    # A: M1, M3 at +-2 % in two flights about 0: variance (ddof 1) of +2, -2 is 8; all four rotors: sqrt(8) = 2.828
    a = [source((30_600, 29_400, 30_600, 29_400)), source((29_400, 30_600, 29_400, 30_600))]
    rows = {r.figure: r for r in compare({"healthy": a}, {"healthy": a}).rows}
    assert rows["rotor ratios, between flights"].real == pytest.approx(2.8284, abs=1e-3)


def test_flights_flown_alike_have_the_same_damage():
    real = {"healthy": [source()], "cut 2 + 1.5 mm": [source(cut=(2.0, 1.5))]}
    flown = fly_like(real, 2, seed=1, duration_s=10.0)
    assert [(name, [s.cut_mm for s in of]) for name, of in flown.items()] == [
        ("healthy", [None, None]),
        ("cut 2 + 1.5 mm", [(2.0, 1.5)] * 2),
    ]
    # the same vehicles in both groups, and the cut rotor works harder: k_f falls to
    # ((21.5/23.5)^3 + (22/23.5)^3) / 2 = 0.793
    assert [s.drone for s in flown["healthy"]] == [s.drone for s in flown["cut 2 + 1.5 mm"]]
    (row,) = [r for r in compare(flown, flown).rows if r.figure == "ratio of the damaged rotor, change"]
    assert row.sim > 5


def test_groups_are_read_from_the_manifest(folder, tmp_path):
    manifest = folder / "manifest.csv"
    with manifest.open() as lines:
        rows = list(csv.DictReader(lines))
    real = read_real(folder)
    assert len(real["healthy"]) == 4
    m3 = [row for row in rows if row["motors"] == "M3"]
    assert sum(len(of) for of in real.values()) == 4 + len(m3)
    with pytest.raises(DataError, match=r"manifest.csv: the flights' manifest expected"):
        read_real(tmp_path)
    (tmp_path / "manifest.csv").write_text("file,drone\na,b\n")
    with pytest.raises(DataError, match="line 2"):
        read_real(tmp_path)


def test_the_table_says_what_is_off_and_what_was_tuned():
    found = compare(
        {"healthy": [source((31_000, 29_000, 31_000, 29_000))]}, {"healthy": [source((40_000, 20_000) * 2)]}
    )
    lines = realism_cli.table(found).splitlines()
    assert lines[0] == "healthy: 1 simulated, 1 real flights"
    (spread,) = [line for line in lines if "spread over the four" in line]
    assert spread.endswith("0.10  off  spread of motors and propellers chosen for it")
    assert lines[-1].endswith("figures are off by more than a factor of 2")


def test_the_command_prints_rows_and_writes_a_page(sim, folder, tmp_path):
    page = tmp_path / "page.html"
    command = ["realism", "--flights", str(folder), "--sim-flights", "2", "--html", str(page), "--json"]
    run = CliRunner().invoke(sim, command)
    assert run.exit_code == 0, run.output
    text = page.read_text()
    assert text.count("<svg") == 2
    assert "src=" not in text  # nothing from elsewhere
    rows = json.loads(run.stdout)["rows"]
    assert {"group", "figure", "unit", "sim", "real", "ratio", "off", "tuned"} == set(rows[0])
    # simulated flights against simulated ones: alike
    levels = [r["ratio"] for r in rows if r["group"] == "healthy" and r["figure"].startswith("acceleration")]
    assert len(levels) == 3 + 2 * len(BANDS_HZ)
    assert all(0.5 < ratio < 2 for ratio in levels)


@needs_crazypad
def test_the_real_flights_are_read_and_the_fleet_flies_like_them():
    real = read_real(CRAZYPAD)
    assert {name: len(of) for name, of in real.items()} == {
        "healthy": 7,
        "cut 1 mm": 6,
        "cut 1.5 + 1 mm": 6,
        "cut 3 mm": 6,
        "cut 2 + 1.5 mm": 6,
        "cut 4 + 3.5 mm": 3,
    }
    wanted = {name: real[name] for name in ("healthy", "cut 3 mm")}
    rows = {(r.group, r.figure): r for r in compare(fly_like(wanted, 4), wanted).rows}
    for figure in ("motor command, mean", "battery slope", "airborne", "acceleration x, y 0.5 to 5 Hz"):
        assert not rows["healthy", figure].off, figure
    assert {figure for _, figure in rows} <= set(TUNED)
