"""The report against hand-made ledgers and export lines, with every kind of damage; expected numbers are worked by hand."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from cloud_events import alarm
from covey import wire
from covey.errors import DataError
from firmware_sim.truth.facts import read_facts
from firmware_sim.truth.figures import quantiles
from firmware_sim.truth.ledger import Device, Flight, Ledger, Truth
from firmware_sim.truth.report import Report, compare
from firmware_sim.truth.stored import read_lines

if TYPE_CHECKING:
    from pathlib import Path

T0 = 1_800_000_000.0
FLIGHTS = [Flight(T0, T0 + 100), Flight(T0 + 120, T0 + 200)]
SIM = (
    "import typer\nfrom covey.cli import one_line\nfrom firmware_sim import report_cli\n"
    "app = typer.Typer()\napp.callback()(lambda: None)\nreport_cli.register(app)\n"
    "with one_line():\n    raise SystemExit(app(standalone_mode=False))"
)


class Run:
    """A ledger being written by hand, and the lines of a store that has all of it."""

    def __init__(self, folder: Path, devices: list[Device], **meta: Any) -> None:
        self.path = folder / "fleet.ledger"
        self.ledger = Ledger.create(self.path, {"start_epoch_s": T0, **meta})
        self.ledger.register(devices)
        self.lines: list[dict[str, Any]] = []

    def write(
        self, i: int, at_s: float, kind: str = "summary", content: bytes | None = None, delay_s: float = 0.5
    ) -> int:
        """One event at T0 + at_s, received `delay_s` later; returns its place among the lines."""
        body = b""

        def build(identity: wire.Identity) -> bytes:
            nonlocal body
            body = content or f"{identity}".encode()
            return body

        one = self.ledger.put(i, kind, T0 + at_s, build)
        self._line(one, kind, body, T0 + at_s + delay_s)
        return len(self.lines) - 1

    def alarm(
        self, i: int, at_s: float, name: str, state: str = "begin", lag_s: float = 0.5, clock_s: float = 0.0
    ) -> int:
        """An alarm event at T0 + at_s whose window ended `lag_s` before, on a clock that is `clock_s` ahead."""
        data = alarm(name, state, window=wire.WindowRef(0.0, T0 + at_s + clock_s - lag_s, "cd" * 32))
        body = b""

        def build(identity: wire.Identity) -> bytes:
            nonlocal body
            body = wire.make_event(identity, "alarm", T0 + at_s + clock_s, data)
            return body

        one = self.ledger.put(i, "alarm", T0 + at_s, build)
        self._line(one, "alarm", body, T0 + at_s + 0.5)
        return len(self.lines) - 1

    def _line(self, one: wire.Identity, kind: str, body: bytes, received_s: float) -> None:
        line = {"device": one.device, "outbox": one.outbox, "seq": one.seq, "kind": kind, "time": wire.rfc3339(T0)}
        self.lines.append({**line, "sha256": hashlib.sha256(body).hexdigest(), "received_s": received_s})

    def close(self, acknowledged: dict[int, list[tuple[int, int]]] | None = None) -> None:
        """Commit, acknowledge (everything unless told otherwise), close."""
        self.ledger.commit()
        for i in range(len(self.ledger)):
            everything = [(1, max(1, self.ledger.last_seq(i)))]
            ranges = everything if acknowledged is None else acknowledged.get(i, [])
            self.ledger.acknowledge(i, self.ledger.outbox(i), ranges, T0 + 199)
        self.ledger.close()

    def jsonl(self) -> bytes:
        return b"".join(json.dumps(line).encode() + b"\n" for line in self.lines)

    def report(self) -> Report:
        return compare(read_facts(self.path), read_lines(self.jsonl().splitlines(keepends=True), "events"))


def device(name: str, *truth: Truth, link: str = "lte") -> Device:
    return Device(name, "quadrotor", link, 0.0, truth, FLIGHTS)


def damaged(folder: Path) -> Run:
    """Six events of `a`: 1 late, 2 lost after its acknowledgement, 3 twice, 4 with other bytes, 5 as it should be, 6 not sent yet."""
    run = Run(folder, [device("a"), device("b", link="wifi")], end_s=T0 + 200)
    for n in range(6):
        run.write(0, float(n))
    run.write(1, 3.0, delay_s=-0.25)  # its clock and Kafka's differ
    one, _, three, four, five, _, of_b = run.lines
    one["received_s"], three["received_s"], five["received_s"] = T0 + 10, T0 + 3.5, T0 + 4.25
    four["sha256"] = "00" * 32
    run.lines = [
        *(three, one, three, four, five, of_b),
        {**one, "seq": 9},  # never written
        {**one, "device": "b"},  # b has another outbox
        {**one, "outbox": "0123456789abcdef"},  # an earlier run of the same fleet
    ]
    run.close({0: [(1, 5)], 1: [(1, 1)]})
    return run


def test_every_kind_of_damage_is_counted_once_and_named(tmp_path: Path) -> None:
    run = damaged(tmp_path)
    outbox = run.ledger.outbox(0)
    report = run.report()
    assert not report.clean
    assert (report.written, report.acknowledged, report.lines, report.stored) == (7, 6, 9, 4)
    assert (report.lost.total, report.lost.acknowledged_missing, report.lost.on_device) == (2, 1, 1)
    assert (report.duplicate, report.conflicting, report.unknown, report.foreign) == (1, 1, 2, 1)
    assert (report.late, report.holes, report.early) == (1, 2, 1)
    assert sorted((one.what, one.event) for one in report.problems) == [
        ("acknowledged_missing", f"a/{outbox}/2"),
        ("conflicting", f"a/{outbox}/4"),
        ("duplicate", f"a/{outbox}/3"),
        ("unknown", f"a/{outbox}/9"),
        ("unknown", f"b/{outbox}/1"),
    ]
    worst = report.worst[0]
    assert (worst.device, worst.written, worst.stored, worst.late, worst.max_delay_s) == ("a", 6, 3, 1, 10.0)
    assert (worst.acknowledged_missing, worst.duplicate, worst.conflicting, worst.unknown) == (1, 1, 1, 2)


def test_delivery_delays_are_by_link_and_only_of_stored_events(tmp_path: Path) -> None:
    found = {one.name: one for one in damaged(tmp_path).report().delivery}
    # a: 10, 1.5 and 0.25 s; b: -0.25 s
    lte, wifi = found["lte"], found["wifi"]
    assert (lte.devices, lte.delay_s.n, lte.delay_s.p50, lte.delay_s.p95, lte.delay_s.max) == (1, 3, 1.5, 10.0, 10.0)
    assert (wifi.delay_s.n, wifi.delay_s.p50) == (1, -0.25)
    assert found["all"].delay_s.n == found["summary"].delay_s.n == 4
    assert found["all"].delay_s.p50 == 0.25
    assert sum(found["all"].counts) == 4


def test_the_order_of_the_lines_does_not_matter(tmp_path: Path) -> None:
    run = damaged(tmp_path)
    before = run.report()
    run.lines.reverse()
    after = run.report()
    assert (after.problems[:4], after.worst, after.delivery) == (before.problems[:4], before.worst, before.delivery)


def test_what_is_still_on_devices_is_not_held_against_anyone(tmp_path: Path) -> None:
    run = Run(tmp_path, [device("a")])
    for n in range(3):
        run.write(0, float(n))
    del run.lines[1:]
    run.close({0: [(1, 1)]})
    report = run.report()
    assert report.clean
    assert (report.lost.on_device, report.holes, report.problems) == (2, 0, [])


def test_bytes_are_by_device_hour_and_against_raw_bytes(tmp_path: Path) -> None:
    run = Run(tmp_path, [device("a"), device("b")], end_s=T0 + 1800, raw_bytes=6000, sent_bytes=900)
    run.write(0, 1.0, content=b"x" * 100)
    run.write(1, 1.0, content=b"x" * 200)
    run.close()
    report = run.report()
    assert report.device_hours == 1.0  # two for half an hour
    assert (report.volume.payload_bytes, report.volume.payload_bytes_per_device_hour) == (300, 300.0)
    assert (report.volume.bytes_per_event, report.volume.saving, report.volume.sent_bytes) == (150.0, 20.0, 900)


def cut(onset_s: float, cut_mm: float) -> Truth:
    return Truth("propeller-cut", "fault", T0 + onset_s, None, {"motor": 1, "cut_mm": cut_mm})


def watched(folder: Path) -> Run:
    """Seven devices that each show one rule of detection.py."""
    season = Truth("season", "drift", T0 + 50, T0 + 150, {"temperature_c": -10.0})
    gone = Truth("motor-loss", "fault", T0 + 300, None, {"motor": 2})
    devices = [
        *(device("a", cut(50, 2.0)), device("b", cut(60, 4.0)), device("c", cut(60, 4.0)), device("d", cut(60, 2.0))),
        *(device("e", season), device("f"), device("g", gone)),
    ]
    run = Run(folder, devices, end_s=T0 + 200)
    run.alarm(0, 53, "a1", clock_s=-500)  # its window ended at 52.5, whatever its clock says
    run.alarm(0, 99, "a1", "end", clock_s=-500)
    run.alarm(0, 130, "a2", clock_s=-500)
    run.alarm(0, 140, "a2", "end", clock_s=-500)
    run.alarm(1, 60.3, "b1")  # window until 59.8: before the onset
    run.alarm(1, 65, "b1", "end")  # soon over: the detector was free, and said nothing
    run.alarm(2, 40, "c1")  # never ends: nothing else could begin
    unsent = run.alarm(3, 70, "d1")
    run.alarm(3, 80, "d1", "end")
    run.alarm(4, 60, "e1")
    run.alarm(4, 70, "e1", "end")
    run.alarm(5, 10, "f1")
    unended = run.alarm(5, 20, "f1", "end")
    for n in sorted((unsent, unended), reverse=True):
        del run.lines[n]
    run.close()
    return run


def test_detection_by_hand(tmp_path: Path) -> None:
    seen = watched(tmp_path).report().detection
    assert (seen.planned, seen.reached, seen.detected, seen.masked, seen.missed) == (5, 4, 1, 1, 2)
    assert seen.recall == pytest.approx(1 / 3)
    assert (seen.raised, seen.arrived) == (7, 6)
    assert (seen.true_alarms, seen.false_alarms, seen.drift_alarms) == (2, 3, 1)
    assert seen.precision == pytest.approx(2 / 5)
    assert (seen.delay_s.n, seen.delay_s.p50, seen.delay_s.max) == (1, 3.0, 3.0)
    assert (seen.never_ended, seen.ends_missing) == (1, 1)
    assert seen.flight_hours == pytest.approx(7 * 180 / 3600)
    # with nothing wrong: a 50 s, b c d 60 each, e 180 - (50 before the landing + 30 after the start), f and g all 180
    assert seen.clean_flight_hours == pytest.approx((50 + 3 * 60 + 100 + 2 * 180) / 3600)
    assert seen.false_alarms_per_flight_hour == pytest.approx(3 / (690 / 3600))


def test_detection_by_kind_and_size_by_hand(tmp_path: Path) -> None:
    kinds = {one.kind: one for one in watched(tmp_path).report().detection.kinds}
    assert list(kinds) == ["motor-loss", "propeller-cut", "season"]  # drifts last
    cuts = kinds["propeller-cut"]
    assert (cuts.planned, cuts.reached, cuts.detected, cuts.detected_on_device) == (4, 4, 1, 2)
    assert (cuts.alarms, cuts.false_alarms, cuts.precision) == (2, 2, 0.5)
    sizes = [
        (one.label, one.reached, one.detected, one.masked, one.recall)
        for one in cuts.sizes
        if one.parameter == "cut_mm"
    ]
    assert sizes == [("2", 2, 1, 0, 0.5), ("4", 2, 0, 1, 0.0)]
    loss = kinds["motor-loss"]
    assert (loss.planned, loss.reached, loss.recall, loss.precision) == (1, 0, None, None)
    season = kinds["season"]
    assert (season.category, season.alarms, season.detected, season.recall, season.precision) == (
        "drift",
        1,
        1,
        None,
        None,
    )


def one_fault(folder: Path, *alarms: tuple[float, float, str], onset_s: float = 50.0) -> Any:
    """Figures of one device with a fault and alarms (written at, window's end before, state)."""
    run = Run(folder, [device("a", cut(onset_s, 3.0))], end_s=T0 + 200)
    for n, (at_s, lag_s, state) in enumerate(alarms):
        run.alarm(0, at_s, f"x{n - (state == 'end')}", state, lag_s)
    run.close()
    return run.report().detection


def test_a_window_within_the_rounding_of_the_onset_belongs_to_it(tmp_path: Path) -> None:
    seen = one_fault(tmp_path, (50.2, 0.201, "begin"))  # ended 1 ms before the onset
    assert (seen.detected, seen.false_alarms) == (1, 0)
    assert seen.delay_s.p50 == pytest.approx(0.2)


def test_a_window_before_the_onset_is_a_false_alarm_even_when_told_after_it(tmp_path: Path) -> None:
    seen = one_fault(tmp_path, (50.2, 0.3, "begin"), (52, 0.5, "end"))
    assert (seen.detected, seen.missed, seen.false_alarms) == (0, 1, 1)


def test_an_alarm_open_for_ten_seconds_after_the_onset_masks_it(tmp_path: Path) -> None:
    seen = one_fault(tmp_path, (40, 0.5, "begin"), (61, 0.5, "end"))
    assert (seen.detected, seen.missed, seen.masked, seen.recall) == (0, 0, 1, None)


def test_a_later_begin_counts_even_after_an_open_alarm(tmp_path: Path) -> None:
    seen = one_fault(tmp_path, (40, 0.5, "begin"), (61, 0.5, "end"), (130, 0.5, "begin"))
    assert (seen.detected, seen.masked, seen.delay_s.p50) == (1, 0, 80.0)


def test_a_clock_set_between_window_and_event_is_not_believed(tmp_path: Path) -> None:
    seen = one_fault(tmp_path, (51, 3600.0, "begin"))
    assert (seen.detected, seen.false_alarms) == (1, 0)


def test_numbers_of_many_sizes_are_told_in_ranges(tmp_path: Path) -> None:
    run = Run(tmp_path, [device(f"d{n}", cut(50, 1.0 + n / 2)) for n in range(9)], end_s=T0 + 200)  # 1.0, 1.5 ... 5.0
    for n in (7, 8):
        run.alarm(n, 60, f"x{n}")
    run.close()
    (kind,) = run.report().detection.kinds
    sizes = [(one.label, one.reached, one.detected) for one in kind.sizes if one.parameter == "cut_mm"]
    assert sizes == [("1 to 2", 2, 0), ("2 to 3", 2, 0), ("3 to 4", 2, 0), ("4 to 5", 3, 2)]


def test_the_time_line_counts_every_event_and_ends_with_what_is_left(tmp_path: Path) -> None:
    run = Run(tmp_path, [device("a")], end_s=T0 + 120)
    for n in range(10):
        run.write(0, 10.0 * n)
    run.ledger.note(None, "kill", T0 + 30, "gateway")
    run.ledger.note(0, "lost", T0 + 31)
    run.close({0: [(1, 7)]})
    line = run.report().timeline
    assert (sum(line.written), sum(line.received), sum(line.acknowledged), line.backlog[-1]) == (10, 10, 7, 3)
    assert max(line.backlog) == 10
    assert [(mark.t_s, mark.what, mark.detail) for mark in line.marks] == [(30.0, "kill", "gateway")]
    assert sum(line.devices["lost"]) == 1


def test_quantiles_are_values_that_were_there() -> None:
    found = quantiles([4.0, 1.0, 3.0, 2.0])
    assert (found.n, found.p50, found.p95, found.max) == (4, 2.0, 4.0, 4.0)
    assert quantiles([]).p50 is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"not json\n", "line 2: JSON expected"),
        (b'{"device": "a"\n', "line 2: JSON expected"),
        (b"\xff\xfe\n", "line 2: JSON expected"),
        (b'{"round": 3}\n', "line 2: a line of covey cloud export expected: object missing required field"),
        (b"[]\n", "line 2: a line of covey cloud export expected"),
    ],
)
def test_a_line_of_something_else_is_one_line_with_its_number(tmp_path: Path, line: bytes, says: str) -> None:
    run = damaged(tmp_path)
    good = run.jsonl().splitlines(keepends=True)[0]
    with pytest.raises(DataError) as told:
        compare(read_facts(run.path), read_lines([good, line, good], "events.jsonl"))
    assert str(told.value).startswith(f"events.jsonl: {says}")
    assert "\n" not in str(told.value)


def sim(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", SIM, "report", *words], input=given, capture_output=True, timeout=60, check=False
    )


def test_the_command_names_what_is_wrong_and_exits_1(tmp_path: Path) -> None:
    run = damaged(tmp_path)
    told = sim("--ledger", str(run.path), "--events", "-", given=run.jsonl())
    assert told.returncode == 1, told.stderr
    text = told.stdout.decode()
    assert re.search(r"acknowledged and missing +1\n", text)
    assert f"acknowledged missing: a/{run.ledger.outbox(0)}/2\n" in text
    assert text.endswith("verdict: NOT CLEAN\n")


def test_the_command_is_content_with_a_clean_run_and_prints_json(tmp_path: Path) -> None:
    run = whole(tmp_path / "whole")
    events = tmp_path / "events.jsonl"
    events.write_bytes(run.jsonl())
    told = sim("--ledger", str(run.path), "--events", str(events), "--json")
    assert (told.returncode, told.stderr) == (0, b"")
    answer = json.loads(told.stdout)
    assert (answer["clean"], answer["stored"], answer["lost"]["total"]) == (True, 4, 0)


def whole(folder: Path) -> Run:
    folder.mkdir()
    run = Run(folder, [device("a", cut(50, 2.0))], scenario="one & <two>", seed=3, end_s=T0 + 200)
    run.write(0, 1.0)
    run.alarm(0, 53, "a1")
    run.alarm(0, 60, "a1", "end")
    run.write(0, 70.0)
    run.ledger.note(None, "kill", T0 + 30, "<b>gateway</b> & $x_1$")
    run.close()
    return run


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "action", "data"}:
                self.urls.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if tag == "svg" and name == "aria-label":
                self.labels.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone_is_escaped_and_says_what_its_plots_show(tmp_path: Path) -> None:
    run = whole(tmp_path / "whole")
    page = tmp_path / "report.html"
    told = sim("--ledger", str(run.path), "--events", "-", "--html", str(page), given=run.jsonl())
    assert told.returncode == 0, told.stderr
    parsed = _Page()
    content = page.read_text(encoding="utf-8")
    parsed.feed(content)
    assert parsed.tags.count("svg") == 4
    assert not {"script", "link", "img", "iframe", "b"} & set(parsed.tags)
    assert all(url.startswith("#") for url in parsed.urls)
    assert "url(http" not in content
    assert "@import" not in content
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert all(url[1:] in parsed.ids for url in parsed.urls)
    assert [label.split(".")[0] for label in parsed.labels] == [
        "Time line of events",
        "Delivery delay by link",
        "Detection delay by kind of fault",
        "Recall by kind of fault and size",
    ]
    assert parsed.text.count("one & <two>") == 2  # title and heading
    assert "two" not in parsed.tags
    assert "<b>gateway</b> & $x_1$" in parsed.text
    assert "prefers-color-scheme: dark" in content
    assert "#0102" not in content  # every placeholder became a colour of the page


def test_a_run_in_which_nothing_happened_has_a_report_and_a_page(tmp_path: Path) -> None:
    run = Run(tmp_path, [])
    run.close()
    page = tmp_path / "report.html"
    told = sim("--ledger", str(run.path), "--events", "-", "--html", str(page))
    assert told.returncode == 0, told.stderr
    assert page.exists()


def test_files_that_cannot_be_used_are_one_line_and_exit_2(tmp_path: Path) -> None:
    run = damaged(tmp_path)
    events = tmp_path / "events.jsonl"
    events.write_bytes(run.jsonl() + b'{"device"')
    notes = tmp_path / "notes.txt"
    notes.write_bytes(b"nothing here " * 100)
    for ledger, source, says in (
        (run.path, tmp_path / "none.jsonl", "none.jsonl: cannot be read: No such file or directory"),
        (tmp_path / "none.ledger", events, "none.ledger: a ledger expected, there is no such file"),
        (notes, events, "notes.txt: a ledger of covey sim expected"),
        (run.path, events, "events.jsonl: line 10: JSON expected"),
        (run.path, tmp_path, "cannot be read"),
    ):
        told = sim("--ledger", str(ledger), "--events", str(source))
        assert (told.returncode, told.stdout) == (2, b"")
        assert told.stderr.startswith(b"covey: ")
        assert says in told.stderr.decode()
        assert told.stderr.count(b"\n") == 1
