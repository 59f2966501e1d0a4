"""A training process is killed for real, between two rounds and inside one; what goes on ends as if nothing had been."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from federated.checkpoint import BUNDLE, Checkpoints
from federated.events import at_work, read
from federated_rigs import walk, write_csv, write_ring
from flower_rigs import INPUTS
from processes import Process, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROUNDS = 6
PLAN = ["--family", "dense-ae", "--window", "4", "--rounds", str(ROUNDS), "--min-clients", "3", "--seed", "7"]
COVEY = [sys.executable, "-P", "-m", "covey", "federated"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """Three devices, as files and as rings."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "data").mkdir()
    for number in range(3):
        log = write_csv(folder / "data" / f"m{number}.csv", walk(400, seed=number))
        write_ring(folder / "agents" / f"d{number}" / "ring.bin", INPUTS, [(log, False)])
    return folder


def words(fleet, engine, runs, *more):
    devices = ["--data", str(fleet / "data")] if engine == "simulation" else ["--stack", str(fleet)]
    return [
        *COVEY,
        "train",
        *PLAN,
        *devices,
        "--engine",
        engine,
        "--checkpoint",
        str(runs),
        "--out",
        f"{runs}.zip",
        *more,
    ]


def finish(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module", params=["simulation", "local"])
def whole(fleet, request):
    """A run that nobody disturbed: its engine and its folder."""
    runs = fleet / f"{request.param}-whole"
    finish(words(fleet, request.param, runs))
    return request.param, runs


def last_state(runs):
    checkpoints = Checkpoints(runs)
    number = len(checkpoints.rounds())
    return number, checkpoints._load(number)[0]


@pytest.mark.parametrize("moment", ["between two rounds", "inside a round"])
def test_a_killed_run_goes_on_and_ends_with_the_same_state_bit_for_bit(fleet, whole, moment):
    engine, undisturbed = whole
    runs = fleet / f"{engine}-{moment.split()[0]}"
    process = Process("train", words(fleet, engine, runs), fleet / "train.log").start()
    lines = runs / "events.jsonl"
    # The line of a round is written after its checkpoint; that of a question before any device has it.
    mark = '"kind":"round","round":2' if moment == "between two rounds" else '"kind":"asked","round":3'

    def there():
        return lines.exists() and mark in lines.read_text()

    wait_for(there, 120, mark)
    process.kill9()
    watched = finish([*COVEY, "rounds", "--checkpoint", str(runs), "--follow"])  # ends by itself: nobody is at work
    assert "ended without a word" in watched.stdout.splitlines()[-1]
    done = len(Checkpoints(runs).rounds())
    assert 2 <= done < ROUNDS, f"killed too late to show anything: {done} rounds were whole"
    assert not at_work(runs)
    finish(words(fleet, engine, runs, "--resume"))
    number, state = last_state(runs)
    expected_number, expected = last_state(undisturbed)
    assert number == expected_number == ROUNDS
    assert state.keys() == expected.keys()
    for name, values in expected.items():
        if name == "run":  # a token, drawn anew for every run
            continue
        assert values.dtype == state[name].dtype
        assert values.tobytes() == state[name].tobytes(), name
    assert "released: " in finish([*COVEY, "rounds", "--checkpoint", str(runs)]).stdout.splitlines()[-1]
    events = read(lines)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert len({event.run for event in events}) == 1
    assert [event.kind for event in events if event.kind in ("started", "resumed", "released")] == [
        "started",
        "resumed",
        "released",
    ]


def test_a_second_run_in_a_folder_at_work_is_refused(fleet):
    runs = fleet / "twice"
    process = Process("train", words(fleet, "simulation", runs), fleet / "twice.log").start()
    lines = runs / "events.jsonl"
    wait_for(lambda: lines.exists() and '"kind":"round"' in lines.read_text(), 120, "the first round")
    process.send(signal.SIGSTOP)  # it holds the folder for as long as it lives
    try:
        done = subprocess.run(
            words(fleet, "simulation", runs, "--resume"), capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 2
        assert "another run works in it" in done.stderr.splitlines()[-1]
    finally:
        process.kill9()


def test_a_whole_run_exports_its_bundle_without_a_device(fleet, whole):
    _, runs = whole
    out = fleet / "again.zip"
    done = finish([*COVEY, "export", str(runs), "--out", str(out), "--json"])
    assert out.read_bytes() == (runs / BUNDLE).read_bytes() == runs.with_name(f"{runs.name}.zip").read_bytes()
    assert json.loads(done.stdout)["round"] == ROUNDS


def test_an_earlier_round_needs_devices_and_goes_through_the_gates(fleet, whole):
    engine, runs = whole
    out = fleet / f"{engine}-round-3.zip"
    alone = subprocess.run(
        [*COVEY, "export", str(runs), "--out", str(out), "--round", "3"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert alone.returncode == 2
    assert "need devices" in alone.stderr
    assert not out.exists()
    devices = ["--data", str(fleet / "data")] if engine == "simulation" else ["--stack", str(fleet)]
    done = finish(
        [*COVEY, "export", str(runs), "--out", str(out), "--round", "3", *devices, "--min-clients", "3", "--json"]
    )
    assert json.loads(done.stdout)["evidence"]["rounds"] == 3.0
    assert len(Checkpoints(runs).rounds()) == ROUNDS  # the run's own folder is as it was
    beyond = subprocess.run(
        [*COVEY, "export", str(runs), "--out", str(out), "--round", "9"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (beyond.returncode, beyond.stderr.splitlines()[-1].endswith("--round: 1 to 6 expected, 9 came")) == (2, True)
