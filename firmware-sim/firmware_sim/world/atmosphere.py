"""Standard atmosphere and the shape of the earth: what a barometer and a GPS receiver read. Pure formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# ICAO standard atmosphere, troposphere (Doc 7488; ISO 2533:1975).
SEA_LEVEL_PA = 101_325.0
SEA_LEVEL_K = 288.15
LAPSE_K_M = 0.0065
STANDARD_GRAVITY = 9.80665
AIR_J_KG_K = 287.05287  # specific gas constant of dry air
_EXPONENT = STANDARD_GRAVITY / (AIR_J_KG_K * LAPSE_K_M)  # 5.25588

# WGS 84 (NIMA TR8350.2).
_EQUATOR_M = 6_378_137.0
_FLATTENING = 1 / 298.257223563
_ECCENTRICITY2 = _FLATTENING * (2 - _FLATTENING)


def pressure_pa(altitude_m: Array) -> Array:
    """Static pressure at an altitude over the sea, up to 11 km: p0 (1 - L h / T0)^(g / (R L))."""
    return np.asarray(SEA_LEVEL_PA * (1 - LAPSE_K_M / SEA_LEVEL_K * np.asarray(altitude_m)) ** _EXPONENT)


def altitude_m(pressure: Array) -> Array:
    """Altitude over the sea at a pressure in Pa; the inverse of `pressure_pa`."""
    return np.asarray(SEA_LEVEL_K / LAPSE_K_M * (1 - (np.asarray(pressure) / SEA_LEVEL_PA) ** (1 / _EXPONENT)))


def density(pressure: float, temperature_k: float) -> float:
    """Density of dry air, kg/m^3, by the ideal gas law."""
    return pressure / (AIR_J_KG_K * temperature_k)


def degrees_per_metre(latitude_deg: Array) -> tuple[Array, Array]:
    """Degrees of latitude north and of longitude east that one metre is, from WGS 84's radii of curvature."""
    phi = np.radians(latitude_deg)
    w = 1 - _ECCENTRICITY2 * np.sin(phi) ** 2
    meridian_m = _EQUATOR_M * (1 - _ECCENTRICITY2) / w**1.5
    normal_m = _EQUATOR_M / np.sqrt(w)
    return np.degrees(1 / meridian_m), np.degrees(1 / (normal_m * np.cos(phi)))
