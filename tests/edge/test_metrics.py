"""The agent's figures for Prometheus, and when it counts as well."""

from __future__ import annotations

from covey.exposition import text
from edge import metrics

STATUS = {
    "device": "d1",
    "written_s": 100.0,
    "connected": True,
    "runtime": "litert",
    "provider": "",
    "digest": "ab",
    "windows": 7,
    "outbox": {"pending": 3, "dropped": 0},
    "temperature_c": None,
    "battery_v": 3.7,
    "calibrated": False,
}


def test_figures_that_are_known_are_told_and_no_others() -> None:
    lines = text(metrics.families(STATUS)).splitlines()
    values = [line for line in lines if not line.startswith("#")]
    assert values == [
        "covey_edge_windows_total 7",
        "covey_edge_calibrated 0",
        "covey_edge_connected 1",
        "covey_edge_outbox_rows 3",
        "covey_edge_outbox_dropped_rows_total 0",
        "covey_edge_battery_volts 3.7",
        'covey_edge_info{device="d1",runtime="litert",provider="",digest="ab"} 1',
    ]
    assert "# TYPE covey_edge_windows_total counter" in lines


def test_alive_while_the_loop_turns_and_ready_while_connected() -> None:
    for now_s, connected, expected in (
        (129.0, True, (True, True)),
        (131.0, True, (False, False)),
        (101.0, False, (True, False)),
    ):
        seen = metrics.view({**STATUS, "connected": connected}, now_s)
        assert (seen.alive, seen.ready) == expected
    assert not metrics.view({}, 1e9).alive
