"""JSON lines, a growing CSV, a local broker, this machine: with real pipes, files, a real mosquitto and a real folder tree."""

import contextlib
import json
import math
import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from covey.errors import ConfigError, LinkError
from edge.sources import Begin, End, Missing, Samples
from edge.sources.board import probes
from edge.sources.lines import LinesReader
from edge.sources.live import Live
from edge.sources.numbers import MOST_LINE_BYTES, LineBuffer, numbers
from edge.sources.open import describe, open_source
from edge.sources.system import SystemReader
from processes import wait_for


def samples_of(items):
    return [item for item in items if isinstance(item, Samples)]


def rows_of(items):
    got = samples_of(items)
    return np.concatenate([item.rows for item in got]).tolist() if got else []


@contextlib.contextmanager
def piped(columns, rate_hz=10.0, hold_s=0.5):
    read, write = os.pipe()
    live = Live(LinesReader(read, rate_hz, hold_s), rate_hz=rate_hz, hold_s=hold_s)
    live.columns = columns
    try:
        with os.fdopen(write, "wb", buffering=0) as pipe:
            yield live, pipe
    finally:
        os.close(read)


# -- standard input ---------------------------------------------------------------------------------------------------


def test_lines_without_a_time_are_rows_however_they_arrive():
    with piped(["a", "imu.x"]) as (live, pipe):
        pipe.write(b'{"a": 1, "imu": {"x": 10}}\n{"imu": {"x": 20}, "a": 2}\n{"a": 3, "im')
        out = live.take(5.0, 105.0)
        assert rows_of(out) == [[1, 10], [2, 20]]
        assert (out[0].name, out[1].start_s) == ("stdin flight 1", pytest.approx(105.0, abs=0.01))
        pipe.write(b'u": {"x": 30}}\n')
        out = live.take(5.01, 105.01)
        assert rows_of(out) == [[3, 30]]
        assert out[0].start_s == pytest.approx(105.2, abs=0.01)
        pipe.write(b'{"a": 4, "imu": {"x": 40}}\n{"a": 5')  # half a second's pause is no gap, three seconds are
        assert not samples_of(live.take(5.5, 105.5))[0].gap
        pipe.write(b', "imu": {"x": 50}}\n')
        [last] = samples_of(live.take(8.5, 108.5))
        assert last.gap
        assert last.start_s == pytest.approx(108.5, abs=0.01)


def test_the_end_of_the_lines_ends_the_source_with_its_last_row():
    with piped(["a"]) as (live, pipe):
        pipe.write(b'{"a": 1, "t": 3.0}\n{"a": 2, "t": 3.1}\n{"a": 3, "t": 3.2}')
        out = live.take(0.0, 100.0)
        pipe.close()
        for _ in range(3):
            out += live.take(0.1, 100.1)
        assert rows_of(out) == [[1], [2], [3]]
        assert [type(out[0]), type(out[-1])] == [Begin, End]
        assert live.done
        assert not live.playing


def test_lines_with_a_time_keep_the_senders_intervals_and_1970_is_the_time_itself():
    with piped(["a"]) as (live, pipe):
        for k in range(10):  # all at once, and with a hole of 2 s
            t = 1_800_000_000 + k * 0.1 + (2.0 if k >= 5 else 0.0)
            pipe.write(json.dumps({"t": t, "a": k}).encode() + b"\n")
        pipe.close()
        out = [item for _ in range(3) for item in live.take(0.0, 100.0)]
    got = samples_of(out)
    assert [(round(item.start_s - 1_800_000_000, 3), item.gap) for item in got if item is got[0] or item.gap] == [
        (0.05, False),
        (2.55, True),
    ]
    assert rows_of(out) == [[k] for k in range(10)]


def test_a_channel_that_leaves_the_lines_is_missing():
    with piped(["a", "b"]) as (live, pipe):
        out = []
        for k in range(40):
            pipe.write(json.dumps({"a": k} | ({"b": k} if not 10 <= k < 30 else {"b": None})).encode() + b"\n")
            out += live.take(k * 0.1, 100 + k * 0.1)
        told = [(item.channel, item.back) for item in out if isinstance(item, Missing)]
        assert told == [("b", False), ("b", True)]
        assert rows_of(out) == [[k, k] for k in [*range(10), *range(30, 40)]]


def test_lines_that_are_none_are_counted_and_cost_no_other():
    bad = [b"{", b"[1]", b"nonsense", b"\xff\xfe\x00", b'"x"', b"7", b"[" * 5000, b"x" * (MOST_LINE_BYTES + 5)]
    with piped(["a"]) as (live, pipe):
        out = []
        writer = threading.Thread(
            target=lambda: [pipe.write(line + b"\n") for k in range(8) for line in (b'{"a": %d}' % k, bad[k])],
            daemon=True,
        )
        writer.start()
        wait_for(lambda: out.extend(live.take(0.0, 100.0)) or len(rows_of(out)) == 8, 20.0, "eight rows")
        wait_for(lambda: out.extend(live.take(0.0, 100.0)) or live.counts["bad"] == 8, 20.0, "eight bad lines")
        writer.join(10.0)
        assert rows_of(out) == [[k] for k in range(8)]


def test_numbers_of_json_are_flat_bounded_and_nothing_else():
    assert numbers(b'{"a": 1, "b": {"c": [2, true]}, "d": "7", "e": null}') == {"a": 1, "b.c.0": 2, "b.c.1": 1}
    assert numbers(b"3.5") == {"": 3.5}
    nan = numbers(b'{"a": NaN, "b": 1e400}')
    assert math.isnan(nan["a"])
    assert math.isinf(nan["b"])
    assert math.isnan(numbers(b'{"a": 1' + b"0" * 400 + b"}")["a"])
    assert len(numbers(json.dumps({str(k): k for k in range(10_000)}))) == 4096
    deep = '{"a":' * 20 + "1" + "}" * 20
    assert numbers(deep) == {}
    for junk in (b"", b"{", b'{"a":' * 100_000, b"\xff", b'{"a": 1} 2'):
        assert numbers(junk) is None


def test_files_are_read_without_the_libraries_of_live_sources_and_a_missing_one_is_named():
    code = (
        "import sys; import edge.sources.files, edge.sources.open, edge.sources.player\n"
        "heavy = {'pymavlink', 'psutil', 'paho', 'serial', 'fastcrc'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from edge.sources.open import open_source\n"
        "from covey.errors import MissingExtra\n"
        "for spec, name in (('mavlink+udp://127.0.0.1:1', 'pymavlink'), ('mavlink+serial:///x', 'serial'), ('system:', 'psutil')):\n"
        "    sys.modules[name] = None\n"
        "    try: open_source([spec], rate_hz=1.0)\n"
        "    except MissingExtra as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == [
        "pymavlink is not installed: pip install 'covey[mavlink]'",
        "pyserial is not installed: pip install 'covey[mavlink]'",
        "psutil is not installed: pip install 'covey[edge]'",
    ], done.stderr


def test_any_bytes_leave_whole_lines_and_little_memory():
    rng, buffer = random.Random(9), LineBuffer()
    data = rng.randbytes(200_000).replace(b"\n", b"") + b"\nend\n" + b"y" * (3 * MOST_LINE_BYTES) + b"\nlast\n"
    lines, at = [], 0
    while at < len(data):
        size = rng.randrange(1, 70_000)
        lines += buffer.feed(data[at : at + size])
        assert len(buffer._rest) <= MOST_LINE_BYTES
        at += size
    assert lines == [data[: data.index(b"\n")], b"end", b"last"]
    assert buffer.too_long == 1


# -- a CSV that grows -------------------------------------------------------------------------------------------------


class Tailed:
    def __init__(self, path, columns, query="", hold_s=5.0):
        self.live = open_source([f"tail://{path}{query}"], rate_hz=10.0, hold_s=hold_s)
        self.live.columns = columns
        self.now_s = 0.0

    def more(self):
        """What comes in the next second and a half."""
        out = []
        for _ in range(6):
            self.now_s += 0.3
            out += self.live.take(self.now_s, 100.0 + self.now_s)
        return rows_of(out)


def append(path, text):
    with path.open("a") as file:
        file.write(text)


def test_a_growing_file_is_followed_from_its_end_and_half_a_line_waits(tmp_path):
    path = tmp_path / "imu.csv"
    path.write_text("x;y\n1;2\n3;4\n5;")
    tail = Tailed(path, ["y", "x"])
    assert tail.more() == []
    append(path, "6\n7;")
    assert tail.more() == [[6, 5]]
    append(path, "8.5\r\n")
    assert tail.more() == [[8.5, 7]]
    tail.live.close()


def test_rotation_and_truncation_lose_nothing_and_a_new_header_counts(tmp_path):
    path = tmp_path / "imu.csv"
    path.write_text("x,y\n")
    tail = Tailed(path, ["x", "y"], "?from=start")
    append(path, "1,2\n")
    assert tail.more() == [[1, 2]]
    with path.open("a") as old:
        path.rename(tmp_path / "imu.csv.1")
        old.write("3,4\n")  # the writer has not noticed yet
        old.flush()
        assert tail.more() == [[3, 4]]
        assert tail.live.problem.endswith("No such file or directory")
        old.write("5,6\n")
    path.write_text("y,x\n8,7\n")
    assert tail.more() == [[5, 6], [7, 8]]
    assert tail.live.problem == ""
    path.write_text("10,9\n")  # copytruncate: the same columns go on
    assert tail.more() == [[9, 10]]
    assert tail.live.counts["rotations"] == 2
    tail.live.close()


def test_a_file_that_comes_later_is_read_from_its_start(tmp_path):
    path = tmp_path / "late.csv"
    tail = Tailed(path, ["x"])
    assert tail.more() == []
    assert tail.live.problem == f"{path}: No such file or directory"
    path.write_text("x\n1\n2\n")
    assert tail.more() + tail.more() == [[1], [2]]
    tail.live.close()
    other = Tailed(tmp_path, ["x"])
    assert other.more() == []
    assert other.live.problem == f"{tmp_path}: a regular file expected"


def test_bad_rows_and_empty_cells_are_no_readings(tmp_path):
    path = tmp_path / "imu.csv"
    path.write_text('"x",y\n')
    tail = Tailed(path, ["x", "y"])
    tail.more()
    append(path, '1,2\n3\n4,5,6\n"7","8"\nx,9\n\xff\n"a\n')
    assert tail.more() == [[1, 2], [7, 8]]
    append(path, "10,11\n")  # the row before it waited for an x
    assert tail.more() == [[7, 9], [10, 11]]
    assert tail.live.counts["bad"] == 4
    assert tail.live.counts["no_number"] == 1
    tail.live.close()


def test_a_clock_column_is_the_time_of_the_rows(tmp_path):
    for name, stamps in (
        ("timestamp", [f"2026-11-23T10:00:0{s}Z" for s in ("0.0", "0.1", "0.2", "5.0", "5.1")]),
        ("t", ["0.0", "0.1", "0.2", "5.0", "5.1"]),
    ):
        path = tmp_path / f"{name}.csv"
        path.write_text(f"{name},x\n" + "".join(f"{stamp},{k}\n" for k, stamp in enumerate(stamps)) + "never,9\n")
        live = open_source([f"tail://{path}?from=start"], rate_hz=10.0, hold_s=0.5)
        live.columns = ["x"]
        out = [item for k in range(4) for item in live.take(k * 0.05, 1000.0)]
        got = samples_of(out)
        assert [item.gap for item in got] == [False, True]
        assert rows_of(out) == [[0], [1], [2], [3]]  # the last one waits for the one behind it
        assert got[1].start_s - got[0].start_s == pytest.approx(5.0)
        if name == "timestamp":
            assert got[0].start_s == pytest.approx(1_795_428_000.05)  # date -u -d 2026-11-23T10:00:00Z +%s
        assert live.counts["bad"] == 1
        live.close()


# -- a broker ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def publisher(port):
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.mark.broker
@pytest.mark.timeout(90)
def test_topics_of_a_broker_are_channels_and_a_broker_that_dies_is_waited_for(mosquitto_factory):
    broker = mosquitto_factory()
    with publisher(broker.port) as client:
        client.publish("drone/imu", json.dumps({"ax": 99, "g": {"x": 99}}), qos=1, retain=True).wait_for_publish(10)
    source = open_source([f"mqtt://127.0.0.1:{broker.port}/drone/#"], rate_hz=50.0, hold_s=2.0)
    source.columns = ["imu.ax", "imu.g.x", "rpm"]
    out = []

    def feed(value, enough):
        with publisher(broker.port) as client:

            def step():
                client.publish("drone/imu", json.dumps({"ax": value, "g": {"x": -value}}))
                client.publish("drone/rpm", str(value))
                client.publish("drone/rpm", b"\xff junk")
                client.publish("other/rpm", "7")
                out.extend(source.take(time.monotonic(), time.time()))
                return enough()

            wait_for(step, 30.0, f"rows of {value}: {source.problem}")

    try:
        feed(1.5, lambda: len(rows_of(out)) > 20)
        assert all(row == [1.5, -1.5, 1.5] for row in rows_of(out))  # never the retained one, nobody knows its age
        assert source.counts["bad"] > 0
        broker.kill9()
        wait_for(lambda: source.take(time.monotonic(), time.time()) or source.problem, 20.0, "a problem")
        broker.start()
        seen = len(rows_of(out))
        feed(2.5, lambda: [2.5, -2.5, 2.5] in rows_of(out)[seen:])
    finally:
        source.close()


@pytest.mark.broker
@pytest.mark.timeout(60)
def test_one_topic_has_no_prefix_and_a_flood_is_bounded_and_counted(mosquitto):
    from servers import unique

    topic = unique("imu")
    source = open_source([f"mqtt://127.0.0.1:{mosquitto.port}/{topic}"], rate_hz=10.0)
    source.columns = ["ax"]
    try:
        wait_for(lambda: source.take(time.monotonic(), time.time()) or not source._reader.problem, 20.0, "subscribed")
        with publisher(mosquitto.port) as client:
            for k in range(6000):
                sent = client.publish(topic, json.dumps({"ax": k}), qos=0)
            sent.wait_for_publish(20)
            reader = source._reader
            wait_for(lambda: reader._dropped + len(reader._waiting) >= 6000, 30.0, "all came")
        assert len(reader._waiting) <= 4096
        assert source.counts["dropped"] == 6000 - 4096
        readings = reader.read(0.0)
        assert readings[0].names == ("ax",)
        assert readings[0].values == (6000 - 4096,)  # the oldest were dropped
    finally:
        source.close()


@pytest.mark.timeout(60)
def test_a_broker_that_is_away_is_a_problem_and_describe_says_it(tmp_path):
    from processes import free_port

    port = free_port()
    with pytest.raises(LinkError, match=f"mqtt 127.0.0.1 {port}: Connection refused"):
        describe(f"mqtt://127.0.0.1:{port}/a", 1.0)
    with pytest.raises(ConfigError, match="a readable password_file expected"):
        open_source([f"mqtt://127.0.0.1:{port}/a?user=u&password_file={tmp_path}/none"], rate_hz=1.0)


# -- the machine ------------------------------------------------------------------------------------------------------


def jetson(root):
    """What a Jetson Orin Nano's kernel shows, in files."""

    def write(path, text):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    for n, (kind, milli) in enumerate(
        [("cpu-thermal", "48250\n"), ("gpu-thermal", "46968\n"), ("soc0-thermal", "-5500\n")]
    ):
        write(f"sys/class/thermal/thermal_zone{n}/type", kind + "\n")
        write(f"sys/class/thermal/thermal_zone{n}/temp", milli)
    write("sys/devices/platform/bus@0/17000000.gpu/load", "734\n")
    chip = "sys/class/hwmon/hwmon1/"
    write(chip + "name", "ina3221\n")
    for n, (rail, millivolts, milliamperes) in enumerate(
        [("VDD_IN", "5040", "1200"), ("VDD_CPU_GPU_CV", "5024", "320")], 1
    ):
        write(f"{chip}in{n}_label", rail + "\n")
        write(f"{chip}in{n}_input", millivolts + "\n")
        write(f"{chip}curr{n}_input", milliamperes + "\n")
    write(chip + "in4_label", "sum of shunt voltages\n")
    write(chip + "in4_input", "1\n")
    write("sys/class/hwmon/hwmon2/name", "pwmfan\n")
    write("sys/class/hwmon/hwmon2/fan1_input", "2150\n")
    write("var/lib/nvpmodel/status", "pmode:0002")


def test_a_jetson_tells_temperatures_rails_fan_gpu_and_power_mode(tmp_path):
    jetson(tmp_path)
    found = {probe.channel: probe.read() for probe in probes(tmp_path)}
    assert found == {
        "system.temp.cpu-thermal": pytest.approx(48.25),
        "system.temp.gpu-thermal": pytest.approx(46.968),
        "system.temp.soc0-thermal": pytest.approx(-5.5),
        "system.gpu": pytest.approx(73.4),
        "system.power.vdd-in": pytest.approx(6.048),  # 5.04 V x 1.2 A
        "system.voltage.vdd-in": pytest.approx(5.04),
        "system.current.vdd-in": pytest.approx(1.2),
        "system.power.vdd-cpu-gpu-cv": pytest.approx(1.60768),
        "system.voltage.vdd-cpu-gpu-cv": pytest.approx(5.024),
        "system.current.vdd-cpu-gpu-cv": pytest.approx(0.32),
        "system.fan.pwmfan.fan1": 2150.0,
        "system.power_mode": 2.0,
    }


def test_a_sensor_that_fails_is_no_reading_and_one_of_the_same_name_has_a_number(tmp_path):
    jetson(tmp_path)
    (tmp_path / "sys/class/thermal/thermal_zone1/type").write_text("cpu-thermal\n")
    (tmp_path / "sys/class/thermal/thermal_zone2/temp").write_text("")
    found = {probe.channel: probe.read() for probe in probes(tmp_path)}
    assert found["system.temp.cpu-thermal.2"] == pytest.approx(46.968)
    assert found["system.temp.soc0-thermal"] is None
    assert probes(tmp_path / "nothing") == []


@pytest.mark.timeout(60)
def test_this_machine_is_heard_beside_the_board_and_a_dead_sensor_is_missing(tmp_path):
    jetson(tmp_path)
    source = open_source([f"system:?root={tmp_path}&interval_s=0.1"], rate_hz=10.0, hold_s=0.5)
    source.columns = ["system.cpu", "system.mem", "system.temp.cpu-thermal", "system.power.vdd-in"]
    out = []

    def step(enough):
        out.extend(source.take(time.monotonic(), time.time()))
        return enough()

    try:
        wait_for(lambda: step(lambda: len(rows_of(out)) >= 10), 20.0, "ten rows")
        rows = rows_of(out)
        assert all(0 <= row[0] <= 100 and 0 < row[1] < 100 for row in rows)
        assert rows[-1][2:] == [pytest.approx(48.25), pytest.approx(6.048)]
        (tmp_path / "sys/class/thermal/thermal_zone0/temp").unlink()
        wait_for(lambda: step(lambda: any(isinstance(i, Missing) for i in out)), 20.0, "a dead sensor")
        assert [(i.channel, i.back) for i in out if isinstance(i, Missing)] == [("system.temp.cpu-thermal", False)]
        made = len(rows_of(out))
        wait_for(lambda: step(lambda: source.counts["readings"] > 30), 20.0, "more polls")
        assert len(rows_of(out)) <= made + 3  # those that were certain already
        (tmp_path / "sys/class/thermal/thermal_zone0/temp").write_text("50000\n")
        wait_for(lambda: step(lambda: rows_of(out)[-1][2] == 50.0), 20.0, "the sensor back")
        assert [i.gap for i in samples_of(out)].count(True) == 1
    finally:
        source.close()


@pytest.mark.timeout(30)
def test_polls_that_nobody_reads_are_bounded():
    reader = SystemReader(0.1)
    try:
        assert reader._waiting.maxlen == 256
        wait_for(lambda: reader.counts["readings"] >= 2, 20.0, "two polls")
        readings = reader.read(0.0)
        assert "system.cpu.0" in readings[-1].names
        assert len(readings[-1].names) == len(readings[-1].values)
    finally:
        reader.close()
