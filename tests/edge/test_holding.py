"""When a device is left alone."""

import pytest

from edge.config import AgentConfig
from edge.holding import About, held


def config(**keys):
    return AgentConfig(device="d1", state="s", **keys)


@pytest.mark.parametrize(
    ("about", "why"),
    [
        (About(), ""),
        (About(armed=True), "armed"),
        (About(airborne=True), "in the air"),
        (About(battery_v=3.4), "battery 3.40 V, below 3.5 V"),
        (About(battery_v=3.5), ""),
        (About(battery_share=0.29), "battery 29%, below 30%"),
        (About(battery_share=0.3), ""),
        (About(metered=True), "metered link"),
        (About(armed=True, metered=True), "armed"),
    ],
)
def test_what_holds_a_device_back_is_told(about, why):
    assert held(about, config(min_battery_v=3.5, min_battery_share=0.3)) == why


def test_what_one_is_told_to_ignore_does_not_hold_it_back():
    one = config(min_battery_v=3.5, update_anyway=("armed", "metered"))
    assert held(About(armed=True, metered=True), one) == ""
    assert held(About(armed=True, battery_v=3.0), one).startswith("battery")
