"""`covey cloud`: what it prints, how it ends, and what it does not load."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, NamedTuple

import pytest

from cloud.cli import app
from cloud.learn import desired
from cloud.learn.releases import Release
from cloud.store.writer import write_batch
from cloud_events import (
    DIGEST,
    OUTBOX,
    T0,
    alarm,
    cloud_command,
    new_store,
    received,
    reported,
    small_bundle,
    summary,
)
from covey.cli import one_line

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = [
    "run",
    "serve",
    "releases add",
    "releases list",
    "devices",
    "devices list",
    "devices add",
    "devices move",
    "devices label",
    "devices retire",
    "devices forget",
    "devices parameters",
    "feedback",
    "accounts list",
    "accounts add",
    "accounts change",
    "accounts remove",
    "audit",
    "lineage",
    "alarms",
    "why",
    "learning",
    "watch",
    "status",
    "export",
    "command",
]


class Told(NamedTuple):
    """What a command said and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def cloud(*arguments: str, **environment: str) -> Told:
    """A command in this process, as the root command runs it: an interpreter for each would take a second."""
    out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            with one_line():
                code = app(list(arguments), standalone_mode=False)
        except SystemExit as end:
            code = end.code
        out.flush()
    return Told(code if isinstance(code, int) else 0, out.buffer.getvalue().decode(), err.getvalue())


def cloud_alone(*arguments: str, **environment: str) -> Told:
    """A command in a process of its own: for those that handle signals."""
    command = cloud_command(*arguments)
    env = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    return Told(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    url, engine = new_store(tmp_path_factory.mktemp("cli"))
    said = summary(1, reported=reported(release=1, digest=DIGEST), flight="flight-7")
    end = alarm(state="end", peak_score=9.25, windows=5)
    batch = [received(1, said), received(2, alarm()), received(3, end), received(1, device="d2")]
    write_batch(engine, "b", {}, batch)
    desired.assign(engine, Release("default", 1, DIGEST, "default/1.covey", 77, T0, "first"), "http://127.0.0.1:1")
    engine.dispose()
    return url


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str) -> None:
    told = cloud(*command.split(), "--help")
    assert told.returncode == 0
    assert "Example: covey cloud " + command in told.stdout


def test_help_loads_no_heavy_library() -> None:
    heavy = ("sqlalchemy", "tuf", "securesystemslib", "cryptography", "confluent_kafka", "rich.live", "numpy")
    code = f"import sys, cloud.cli; print([name for name in {heavy!r} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_devices_json(store: str) -> None:
    rows = json.loads(cloud("devices", "--store", store, "--json").stdout)
    assert [(row["device"], row["release"], row["desired"], row["windows"], row["alarms"]) for row in rows] == [
        ("d1", 1, 1, 10, 1),
        ("d2", 0, 1, 10, 0),
    ]


def test_devices_json_counts_windows_and_alarms_per_flight(store: str) -> None:
    flights = {row["device"]: row["flights"] for row in json.loads(cloud("devices", "--store", store, "--json").stdout)}
    assert flights == {"d1": [{"flight": "flight-7", "windows": 10, "alarmed_windows": 1, "alarms": 1}], "d2": []}


def test_learning_shows_the_steps_in_order(store: str) -> None:
    rows = json.loads(cloud("learning", "--store", store, "--json").stdout)
    assert [(row["kind"], row["device"]) for row in rows] == [
        ("reported", "d1"),
        ("release", ""),
        ("desired", "d1"),
        ("desired", "d2"),
    ]
    assert "reported" in cloud("learning", "--store", store).stdout


def test_the_store_may_be_named_in_the_environment(store: str) -> None:
    told = cloud("status", "--json", COVEY_CLOUD_STORE=store)
    counts = json.loads(told.stdout)
    assert (counts["devices"], counts["events"], counts["alarms"], counts["releases"]) == (2, 4, 1, 1)


def test_tables_are_plain_text(store: str) -> None:
    for command, word in (("devices", "d1"), ("alarms", "motor.m1"), ("status", "windows"), ("releases list", "first")):
        told = cloud(*command.split(), "--store", store)
        assert told.returncode == 0, told.stderr
        assert word in told.stdout
        assert "\x1b" not in told.stdout


def test_why_shows_the_chain_of_an_event(store: str) -> None:
    (chain,) = json.loads(cloud("why", f"d1/{OUTBOX}/2", "--store", store, "--json").stdout)
    assert chain["window"] == {"start_s": T0, "end_s": T0 + 1, "sha256": "cd" * 32}
    assert chain["model"] == {"release": 1, "digest": DIGEST, "calibration": "ef" * 32, "runtime": "litert"}
    assert chain["score"] == {"score": 3.0, "peak_score": 3.5, "threshold": 2.0, "confidence": 0.99}
    assert chain["attribution"] == {"top_channel": "motor.m1", "shares": {"motor.m1": 0.8, "acc.z": 0.2}}
    assert (chain["release"]["number"], chain["release"]["note"]) == (1, "first")
    assert chain["stored"]["intact"] is True
    assert chain["stored"]["received"] == "2026-02-02T02:40:00.000Z"


def test_why_of_an_alarm_shows_its_beginning_and_its_end(store: str) -> None:
    chains = json.loads(cloud("why", "a1", "--store", store, "--json").stdout)
    assert [(chain["event"], chain["alarm"]["state"]) for chain in chains] == [
        (f"d1/{OUTBOX}/2", "begin"),
        (f"d1/{OUTBOX}/3", "end"),
    ]
    text = cloud("why", "a1", "--store", store).stdout
    assert "top_channel  motor.m1" in text


def test_why_of_a_summary_names_the_model(store: str) -> None:
    (chain,) = json.loads(cloud("why", f"d1/{OUTBOX}/1", "--store", store, "--json").stdout)
    assert chain["model"]["release"] == 1
    assert chain["release"]["target"] == "default/1.covey"


def test_why_of_nothing_is_one_line_and_exit_2(store: str) -> None:
    told = cloud("why", "nothing", "--store", store)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("covey: an event id")
    assert told.stderr.count("\n") == 1


def test_watch_ends_after_its_seconds(store: str) -> None:
    told = cloud_alone("watch", "--store", store, "--seconds", "1.2", COLUMNS="160")
    assert told.returncode == 0, told.stderr
    assert "d1" in told.stdout
    assert "motor.m1" in told.stdout


def test_export_to_stdout(store: str) -> None:
    told = cloud("export", "--store", store, "--out", "-")
    assert [json.loads(line)["seq"] for line in told.stdout.splitlines()] == [1, 2, 3, 1]


@pytest.mark.parametrize("command", [["status"], ["devices"], ["export", "--out", "-"]])
def test_a_store_that_is_not_there_is_one_line_and_exit_1(tmp_path: Path, command: list[str]) -> None:
    told = cloud(*command, "--store", str(tmp_path / "none.db"))
    assert told.returncode == 1
    assert told.stderr.startswith("covey: store ")
    assert told.stderr.count("\n") == 1


def test_a_store_on_a_read_only_path_ends_run_with_one_line(tmp_path: Path) -> None:
    told = cloud_alone("run", "--store", "/sys/covey.db", "--repository-dir", str(tmp_path / "repo"))
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1].startswith("covey: store sqlite:////sys/covey.db: ")
    assert "Traceback" not in told.stderr


def test_every_wrong_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cloud.toml"
    file.write_text('bach_rows = 3\nserve_port = 99999\nkafka_kind = "embedded"\n')
    told = cloud("run", "--config", str(file), "--check")
    assert told.returncode == 2
    assert "bach_rows" in told.stderr
    assert "serve_port" in told.stderr
    told = cloud("run", "--kafka-kind", "embedded", "--check")
    assert told.returncode == 2
    assert "broker_instance is needed" in told.stderr


def test_what_is_no_bundle_is_not_released(tmp_path: Path) -> None:
    bad = bytearray(small_bundle())
    bad[len(bad) // 2] ^= 1
    (tmp_path / "bad.covey").write_bytes(bad)
    options = ["--store", str(tmp_path / "s.db"), "--repository-dir", str(tmp_path / "repo")]
    told = cloud("releases", "add", str(tmp_path / "bad.covey"), *options)
    assert told.returncode == 1
    assert "bad.covey" in told.stderr
    assert not (tmp_path / "repo").exists()


@pytest.mark.slow
def test_a_release_without_kafka_is_recorded_for_run_to_publish(tmp_path: Path) -> None:
    (tmp_path / "m.covey").write_bytes(small_bundle())
    options = ["--store", str(tmp_path / "s.db"), "--repository-dir", str(tmp_path / "repo")]
    told = cloud(
        "releases", "add", str(tmp_path / "m.covey"), *options, "--kafka", "127.0.0.1:9", "--to", "d7", "--json"
    )
    assert told.returncode == 0
    assert "will publish" in told.stderr
    answer = json.loads(told.stdout)
    assert (answer["number"], answer["devices"], answer["published"]) == (1, ["d7"], False)
    counts = json.loads(cloud("status", "--store", str(tmp_path / "s.db"), "--json").stdout)
    assert counts["waiting_to_publish"] == 3  # the release, d7's desired, and the step that says so


def test_serve_says_its_port_and_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)\n"
        "print(child.pid, child.stdout.readline().strip(), flush=True)\n"
    )
    options = ["serve", "--repository-dir", str(tmp_path), "--port", "0", "--die-with-parent"]
    told = subprocess.run(
        [sys.executable, "-c", code, *cloud_command(*options)], capture_output=True, text=True, timeout=30, check=True
    )
    pid, port = (int(word) for word in told.stdout.split())
    assert port > 0
    from processes import wait_for

    wait_for(lambda: not _runs(pid), 10, "the server has ended with its parent")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123  # a zombie waits for its reaper only
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"
