"""Heat, clocks and fan of a machine, worked by hand."""

import numpy as np
import pytest

from firmware_sim.world import thermal as th


def one(value):
    return np.array([float(value)])


def still(die, sink, fan=0.0, held=None):
    """A state whose fan is where its curve wants it, so that it stays unless heat moves it."""
    return th.Heat(one(die), one(sink), one(die if held is None else held), one(fan), one(1.0))


def test_heat_settles_at_ambient_plus_power_times_both_resistances():
    # 5 W, air at 20 C, fan standing still below 35 C of die: held there by hand: R2 = 1/0.12 = 8.3333 K/W, too hot; so 1 W:
    # 20 + 1 x (0.6 + 8.33333) = 28.93333 C, sink 28.33333 C
    heat = still(20, 20)
    for _ in range(40_000):
        th.advance(heat, one(1.0), one(20.0), one(1.0), 1.0)
    assert heat.fan_rpm[0] == 0.0
    assert heat.die_c[0] == pytest.approx(28.933333, abs=1e-6)
    assert heat.sink_c[0] == pytest.approx(28.333333, abs=1e-6)


def test_the_sink_follows_an_exponential_with_the_time_constant_of_its_air():
    # C2 / G = 180 / 0.12 = 1500 s for the sink alone; the die's 8 J/K rides on it: (180 + 8) / 0.12 = 1566.7 s for slow changes
    heat = still(25, 25)
    times = np.arange(1, 3001) * 1.0
    die = []
    for _ in times:
        th.advance(heat, one(0.0), one(20.0), one(1.0), 1.0)
        die.append(heat.die_c[0] - 20)
    slope = np.polyfit(times[100:], np.log(die[100:]), 1)[0]
    assert -1 / slope == pytest.approx(188 / 0.12, rel=0.002)


def test_what_the_nodes_gain_is_what_went_in_less_what_the_air_took():
    heat = still(60, 50, fan=2500.0)
    for power, step in ((14.0, 0.5), (4.5, 1.0), (9.0, 30.0)):
        die, sink, fan = heat.die_c[0], heat.sink_c[0], heat.fan_rpm[0]
        th.advance(heat, one(power), one(33.0), one(0.7), step)
        to_air = (0.12 + 0.94 * fan / 6000 * 0.7) * (heat.sink_c[0] - 33.0)
        gained = 8.0 * (heat.die_c[0] - die) + 180.0 * (heat.sink_c[0] - sink)
        assert gained == pytest.approx(step * (power - to_air), abs=1e-9)


def test_a_long_step_is_stable():
    heat = still(60, 50)
    for _ in range(50):
        th.advance(heat, one(3.0), one(20.0), one(0.0), 10_000.0)
    assert heat.sink_c[0] == pytest.approx(20 + 3 / 0.12, abs=1e-3)


def test_settled_is_where_stepping_ends():
    power, air, flow = np.array([4.5, 9.0, 14.0]), np.array([30.0, 33.0, 36.0]), np.array([1.0, 0.5, 1.0])
    settled = th.Heat.settled(power, air, flow)
    heat = th.Heat.settled(power, air, flow)
    for _ in range(5000):
        th.advance(heat, power, air, flow, 1.0)
    np.testing.assert_allclose(heat.die_c, settled.die_c, atol=1e-6)
    # and it is ambient + P (R1 + R2) with the fan's speed there
    resistance = 0.6 + 1 / (0.12 + 0.94 * flow * settled.fan_rpm / 6000)
    np.testing.assert_allclose(settled.die_c, air + power * resistance, atol=1e-6)


@pytest.mark.parametrize(
    ("celsius", "rpm"), [(20, 0), (35, 0), (54.5, 2000), (74, 4000), (90, 4000), (95, 6000), (99, 6000)]
)
def test_the_fan_curve_of_the_stock_profile(celsius, rpm):
    # 54.5 is half way from 35 to 74
    assert th.fan_target(one(celsius))[0] == pytest.approx(rpm)


def test_the_fan_rises_at_once_and_falls_only_after_nine_degrees():
    heat = still(60, 60)
    seen = []
    for die in (70, 65, 61.5, 61, 55, 50, 58, 59, 61):
        heat.die_c = heat.sink_c = one(die)
        th.advance(heat, one(0.0), one(die), one(0.0), 1e-9)
        seen.append(round(heat.held_c[0], 3))
    # up to 70 at once; held until 61; then 9 above the die; rising again only from 59 on
    assert seen == [70, 70, 70, 70, 64, 59, 59, 59, 61]


def test_the_throttle_takes_clocks_above_95_and_gives_back_below_92():
    heat = still(96, 96)
    caps = []
    for die, seconds in ((96, 4), (93, 4), (91, 4), (120, 60)):
        for _ in range(seconds):
            heat.die_c = heat.sink_c = one(die)
            th.advance(heat, one(0.0), one(die), one(1.0), 1.0)
        caps.append(round(heat.cap[0], 6))
    # 4 s x 0.05 given up; kept between; 4 s x 0.02 given back; down to the floor
    assert caps == [0.8, 0.8, 0.88, 0.3]


def test_the_throttle_keeps_the_die_at_its_limit():
    # Full load, no fan air, 50 C: without a throttle 50 + 14.8 x 8.9333 = 182 C
    heat = still(90, 85)
    full = one(1.0)
    hottest = 0.0
    for n in range(6000):
        cpu, gpu = th.cpu_clock(full, heat.cap), th.gpu_clock(full, heat.cap)
        power = th.IDLE_W + th.dynamic_w(full, cpu, 1344.0, 3.3) + th.dynamic_w(full, gpu, 918.0, 7.0)
        th.advance(heat, power, one(50.0), one(0.0), 0.5)
        if n > 1000:
            hottest = max(hottest, heat.die_c[0])
    assert 92 <= hottest < 104.5
    assert heat.cap[0] < 0.5


def test_clocks_are_the_lowest_step_with_a_quarter_to_spare():
    # 0.62 x 1.25 x 1344 = 1041.6: steps 115.2 + 76.8 n: n = 12.06 -> 13 -> 1113.6; idle floor 729.6; cap 0.5 = 672 -> n = 7.25 -> 7
    clocks = th.cpu_clock(np.array([0.62, 0.02, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.5]))
    np.testing.assert_allclose(clocks, [1113.6, 729.6, 1344.0, 652.8])
    # 0.5 x 1.25 x 918 = 573.75 -> 612; floor 306; cap 0.5 = 459 -> 408
    np.testing.assert_allclose(th.gpu_clock(np.array([0.5, 0.0, 1.0]), np.array([1.0, 1.0, 0.5])), [612, 306, 408])
    # busy part: 0.5 x 918 / 612 = 0.75
    assert th.utilisation(one(0.5), one(612.0), 918.0)[0] == pytest.approx(0.75)


def test_power_goes_with_load_clock_and_voltage_squared():
    # half clock: voltage 0.6 + 0.4/2 = 0.8; 7 W x 0.5 x 0.5 x 0.64 = 1.12 W
    assert th.dynamic_w(one(0.5), one(459.0), 918.0, 7.0)[0] == pytest.approx(1.12)
    assert th.dynamic_w(one(1.0), one(1344.0), 1344.0, 3.3)[0] == pytest.approx(3.3)


@pytest.mark.parametrize(
    ("watts", "rpm", "measured"), [(5.0, 1756, 52.5), (15.3, 6000, 60.0), (20.0, 6296, 66.0), (4.55, 3266, 45.0)]
)
def test_the_model_meets_the_published_measurements_within_two_kelvin(watts, rpm, measured):
    # all of one case whose air the fit puts at 35.5 C
    die = 35.5 + watts * (th.DIE_SINK_KW + 1 / th.conductance(one(rpm), one(1.0))[0])
    assert die == pytest.approx(measured, abs=2.0)
