"""The demo is the product: the whole loop with every process real, and an orderly end also when it is disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from otlp import Collector, Span
from servers import wait_for

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("COVEY_SHARED", ROOT.parent / "shared"))
CRAZYPAD = SHARED / "data" / "crazypad"


def command(*words):
    return [sys.executable, "-m", "covey", "demo", *words]


def children_of(folder):
    """Pids of processes whose command line names the demo's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def run(tmp_path, *words, timeout_s=240, **more):
    environ = {**os.environ, "TMPDIR": str(tmp_path), **more}
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=timeout_s, env=environ, check=False)


def judged(done):
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    report = json.loads(done.stdout)
    assert report["ok"], report["problems"]
    return report


@pytest.fixture(scope="module")
def whole_loop(tmp_path_factory):
    """(folder, how it ended, collector of its traces): one run for all that is asked of it."""
    folder = tmp_path_factory.mktemp("loop")
    with Collector() as collector:
        done = run(folder, "--json", "--seconds", "4", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        yield folder, done, collector


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_whole_loop_on_simulated_flights_alarms_learns_and_loses_nothing(whole_loop):
    tmp_path, done, _ = whole_loop
    report = judged(done)
    for device in report["devices"]:
        assert bool(device["alarms"]) == bool(device["fault"]), device
        assert (device["release_before"], device["release_after"]) == (1, 2)
        if device["fault"]:
            assert device["top_channel"].startswith("motor.m")
            assert device["alarm_delay_s"] > 0
    assert {d["runtime"] for d in report["devices"]} >= {"litert", "onnx"}
    assert report["messages"]["written"] == report["messages"]["stored"] > 0
    assert report["messages"]["lost"] == report["messages"]["duplicate"] == report["messages"]["unknown"] == 0
    assert report["killed"] == ["gateway"]
    assert report["bytes"]["uplink"] < report["bytes"]["raw"]
    assert report["bytes"]["uplink_model"] > 0
    assert report["bytes"]["downlink_model"] > 0
    taught = set(report["round"]["teachers"])
    assert len(taught) >= 2
    assert not taught & {d["id"] for d in report["devices"] if d["alarms"]}
    assert list(tmp_path.iterdir()) == [], "the demo left files behind"
    assert children_of(tmp_path) == [], "the demo left processes behind"


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_alarm_is_one_trace_from_its_window_to_the_store_and_the_rules(whole_loop):
    _, done, collector = whole_loop
    report = judged(done)
    traces: dict[str, list[Span]] = {}
    for span in collector.spans():
        traces.setdefault(span.trace_id, []).append(span)
    roots = [span for spans in traces.values() for span in spans if span.name == "alarm"]
    assert len(roots) == len(traces) == sum(device["alarms"] for device in report["devices"])
    assert {span.service for span in collector.spans()} == {"covey-edge", "covey-gateway", "covey-cloud"}
    whole = 0
    for root in roots:
        spans = traces[root.trace_id]
        ids = {span.span_id: span for span in spans}
        assert len(ids) == len(spans), "two spans of one id"
        # The gateway is killed: what it had produced goes on, and its own span of that is never told.
        orphans = {span.name for span in spans if span.parent_id and span.parent_id not in ids}
        assert orphans <= {"store", "enrich"}, orphans
        above = {(span.name, ids[span.parent_id].name) for span in spans if span.parent_id in ids}
        assert {("window", "alarm"), ("score", "alarm"), ("uplink", "alarm")} <= above
        whole += {("gateway", "alarm"), ("store", "gateway"), ("enrich", "gateway"), ("route", "enrich")} <= above
    assert whole >= 1


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_on_the_real_logs_cuts_of_two_millimetres_alarm_and_healthy_flights_do_not(tmp_path):
    if not CRAZYPAD.is_dir():
        pytest.skip(f"the CrazyPAD logs are not at {CRAZYPAD.parent.name}/{CRAZYPAD.name} (set COVEY_SHARED)")
    report = judged(
        run(tmp_path, "--json", "--flights", str(CRAZYPAD), "--devices", "24", "--seconds", "6", timeout_s=380)
    )
    flights = {f["file"]: f for f in report["flights"]}
    for name in ("normal_flight/E8_log01", "normal_flight/E9_log01"):
        assert flights[name]["alarms"] == 0, flights[name]
    damaged = [f for f in flights.values() if f["judged"] and f["fault"]]
    assert len(damaged) == 21, "every flight damaged by 2 mm or more is flown"
    assert all(f["alarms"] >= 1 for f in damaged), [f for f in damaged if not f["alarms"]]
    assert not {
        "normal_flight/E8_log00",
        "normal_flight/E9_log00",
        "normal_flight/E8_log03",
        "normal_flight/E9_log03",
    } & set(flights)
    assert all(d["release_after"] == 2 for d in report["devices"])


@pytest.mark.broker
@pytest.mark.timeout(120)
@pytest.mark.parametrize("victim", ["ctrl-c", "cloud"])
def test_a_disturbed_demo_ends_everything_it_started(tmp_path, victim):
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command("--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )
    try:
        wait_for(lambda: list(tmp_path.glob("*/logs/agent-*.log")), 90, "the first agent")
        if victim == "ctrl-c":
            process.send_signal(signal.SIGINT)
        else:
            (pid,) = [p for p in children_of(tmp_path) if b"cloud\0run" in Path(f"/proc/{p}/cmdline").read_bytes()]
            os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert out == ""
    if victim == "ctrl-c":
        assert process.returncode == 130
        assert "interrupted" in err
    else:
        assert process.returncode == 1
        assert "cloud: ended with exit code -9" in err
        assert "end of its log" in err
    assert "Traceback" not in err
    assert children_of(tmp_path) == [], "processes were left behind"
    assert list(tmp_path.iterdir()) == [], "files were left behind"


def test_flights_that_are_no_folder_or_have_no_manifest_are_one_line(tmp_path):
    for words, expected in (
        (("--flights", str(tmp_path / "none")), "a folder expected"),
        (("--flights", str(tmp_path)), "a manifest of flights expected"),
        (("--story", "romance"), "loop expected"),
    ):
        done = run(tmp_path, *words, timeout_s=60)
        assert done.returncode == 2, done.stderr
        assert [line for line in done.stderr.splitlines() if line.startswith("covey: ")] == [
            done.stderr.splitlines()[-1]
        ]
        assert expected in done.stderr
