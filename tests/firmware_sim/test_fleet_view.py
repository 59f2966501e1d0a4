"""What a person sees of a running fleet."""

from collections import Counter

from rich.console import Console

from firmware_sim.fleets.progress import Progress
from firmware_sim.fleets.view import Rates, _table, told_line


def progress(**changes):
    values = {"duration_s": 40.0, "t_s": 10.0, "connected": 20, "written": Counter(summary=50, alarm=2)}
    return Progress(**(values | {"acknowledged": 40, "windows": 300, "alarms": 1, "connects": 21, "lost": 1} | changes))


def test_the_live_table_shows_every_figure_with_its_rate():
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115  # nothing to close
    console.print(_table(progress(), (5.0, 4.0, 30.0)))
    rows = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert rows[0] == "10 of 40 s"
    assert rows[2:] == [
        "devices connected 20 21 connects, 1 lost",
        "events written 52 5/s",
        "acknowledged 40 4/s",
        "waiting 12 0 resends",
        "windows scored 300 30/s",
        "alarms 1",
    ]


def test_rates_are_of_the_last_seconds_only():
    rates = Rates(span_s=2.0)
    told = [rates.of(progress(windows=n), now_s) for now_s, n in ((0.0, 0), (1.0, 100), (2.0, 200), (4.0, 200))]
    assert told[0] == (0.0, 0.0, 0.0)
    # at 4 s what was seen at 2 s is the oldest of the span: nothing was scored since
    assert [windows for _, _, windows in told] == [0.0, 100.0, 100.0, 0.0]


def test_a_line_tells_trouble_and_draining():
    line = told_line(progress(draining=True, trouble="disk full"), (5.0, 4.0, 30.0))
    assert "10 s (draining)  20 connected  5 written/s  4 acknowledged/s  12 waiting" in line
    assert line.endswith("disk full")
