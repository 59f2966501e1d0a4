"""Rates around an outage, worked out by hand."""

from __future__ import annotations

import pytest

from chaos.outage import Seen, drain


def test_rates_before_and_after_an_outage_are_those_of_the_records() -> None:
    live = [Seen(90.0 + n / 10, 90.0 + n / 10) for n in range(100)]  # 10 a second until 100.0
    backlog = [Seen(100.0 + n / 10, 200.5 + n / 1_000) for n in range(1_000)]  # until 200.0, in one second
    later = [
        Seen(200.0 + n / 10, 201.499 + n / 10) for n in range(20)
    ]  # those that follow; the first shares the last ms
    found = drain(live + backlog + later, 100.0, 200.0, 5.0)
    assert found.live_hz == 10.0
    assert (found.backlog, found.seconds) == (1_000, pytest.approx(0.999))
    assert found.drain_hz == pytest.approx(1_001 / 0.999)


def test_what_went_through_before_the_outage_is_no_backlog() -> None:
    found = drain([Seen(99.0, 99.01), Seen(99.9, 100.4)], 100.0, 110.0, 10.0)
    assert (found.backlog, found.drain_hz, found.live_hz) == (0, 0.0, 0.2)
