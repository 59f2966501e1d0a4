"""Pressure, density and degrees against published tables."""

import numpy as np
import pytest

from firmware_sim.world import atmosphere
from firmware_sim.world.effects import cold_ohm_factor, density_factor


@pytest.mark.parametrize(
    ("height_m", "pascal"),
    # ICAO Doc 7488 / U.S. Standard Atmosphere 1976, geopotential altitude
    [(0, 101_325.0), (100, 100_129.4), (500, 95_460.8), (1000, 89_874.6), (5000, 54_019.9), (11_000, 22_632.1)],
)
def test_pressure_is_that_of_the_standard_atmosphere(height_m, pascal):
    assert atmosphere.pressure_pa(np.array([height_m])) == pytest.approx([pascal], abs=0.15)


def test_altitude_is_the_inverse_of_pressure():
    heights = np.array([-100.0, 0.0, 408.0, 3000.0])
    np.testing.assert_allclose(atmosphere.altitude_m(atmosphere.pressure_pa(heights)), heights, atol=1e-6)


def test_dry_air_at_sea_level_has_its_known_density():
    assert atmosphere.density(101_325.0, 288.15) == pytest.approx(1.2250, abs=1e-4)
    assert atmosphere.density(101_325.0, 293.15) == pytest.approx(1.2041, abs=1e-4)


def test_cold_air_is_denser_by_the_ratio_of_absolute_temperatures():
    # 1.2041 kg/m^3 at 20, 1.2922 at 0, 1.3943 at -20 degrees Celsius (tables of dry air at 101325 Pa)
    assert density_factor(0.0) == pytest.approx(1.2922 / 1.2041, rel=2e-4)
    assert density_factor(-20.0) == pytest.approx(1.3943 / 1.2041, rel=2e-4)
    assert density_factor(20.0) == 1.0


def test_a_cold_cell_resists_more_by_arrhenius():
    # 20 kJ/mol: 20000/8.31446 x (1/273.15 - 1/293.15) = 2405.4 x 2.49767e-4 = 0.60080; e^0.60080 = 1.8236
    assert cold_ohm_factor(0.0) == pytest.approx(1.8236, rel=1e-4)
    assert cold_ohm_factor(20.0) == 1.0
    assert cold_ohm_factor(40.0) < 1.0


def test_a_degree_is_as_long_as_on_wgs_84():
    # lengths of a degree at the equator, at 45 degrees and (latitude) near the pole: 110.574, 111.132, 111.694 km north;
    # 111.320, 78.847 km east
    north, east = atmosphere.degrees_per_metre(np.array([0.0, 45.0]))
    np.testing.assert_allclose(1 / north, [110_574, 111_132], rtol=2e-5)
    np.testing.assert_allclose(1 / east, [111_320, 78_847], rtol=2e-5)
    assert 1 / atmosphere.degrees_per_metre(np.array([89.99]))[0] == pytest.approx([111_694], rel=2e-5)
