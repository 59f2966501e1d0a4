"""Bad input at the command line: one clear line, exit 1 or 2, and nothing half-written."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from firmware_sim.usdlog import write_log
from firmware_sim.world.vehicle import Vehicle, fly
from servers import free_port


def covey(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "covey", *words], cwd=folder, capture_output=True, text=True, timeout=90, check=False
    )


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A log, a table and a bundle that are fine."""
    folder = tmp_path_factory.mktemp("good")
    for n, flight in enumerate(fly([Vehicle(1), Vehicle(2)], [1, 2], duration_s=13.0)):
        write_log(flight, folder / f"log0{n}")
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(300, 3)).round(4)
    (folder / "table.csv").write_text("a;b;c\n" + "".join(f"{x};{y};{z}\n" for x, y, z in rows))
    done = covey(folder, "model", "fit", "--data", "table.csv", "--family", "pca", "--out", "good.covey")
    assert done.returncode == 0, done.stderr
    return folder


def refused(done, folder, before, *words):
    """Exit 1 or 2, one line that says `words`, no traceback, no file more than there was."""
    assert done.returncode in {1, 2}, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("covey: ")]
    assert len(told) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in told[0], told[0]
    assert sorted(p.name for p in folder.iterdir()) == before


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_truncated_log_is_named_with_what_was_expected(good, tmp_path):
    (tmp_path / "short").write_bytes((good / "log00").read_bytes()[:-1000])
    before = names(tmp_path)
    fit = covey(tmp_path, "model", "fit", "--data", "short", "--family", "pca", "--out", "m.covey")
    refused(fit, tmp_path, before, "short", "expected")
    score = covey(tmp_path, "model", "score", str(good / "good.covey"), "--data", "short", "--out", "s.csv")
    refused(score, tmp_path, before, "short", "expected")


def test_a_missing_column_is_named_with_those_there_are(good, tmp_path):
    (tmp_path / "t.csv").write_text("a;b\n" + "1;2\n" * 50)
    before = names(tmp_path)
    score = covey(tmp_path, "model", "score", str(good / "good.covey"), "--data", "t.csv", "--out", "s.csv")
    refused(score, tmp_path, before, "t.csv", "c", "a, b")
    fit = covey(tmp_path, "model", "fit", "--data", "t.csv", "--columns", "a,z", "--out", "m.covey")
    refused(fit, tmp_path, before, "t.csv", "z")


@pytest.mark.parametrize("cell", ["nan", "", "inf", "high"])
def test_a_cell_that_is_no_number_is_named_by_line_and_column(good, tmp_path, cell):
    lines = (good / "table.csv").read_text().splitlines()
    lines[7] = f"1.0;{cell};2.0"
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    before = names(tmp_path)
    fit = covey(tmp_path, "model", "fit", "--data", "t.csv", "--out", "m.covey")
    refused(fit, tmp_path, before, "t.csv", "8", "b")
    score = covey(tmp_path, "model", "score", str(good / "good.covey"), "--data", "t.csv", "--out", "s.csv")
    refused(score, tmp_path, before, "t.csv", "8", "b")


def test_a_bundle_with_one_flipped_bit_is_refused_by_everyone_who_takes_one(good, tmp_path):
    content = bytearray((good / "good.covey").read_bytes())
    content[len(content) // 2] ^= 0x10
    (tmp_path / "bad.covey").write_bytes(content)
    before = names(tmp_path)
    data = str(good / "table.csv")
    for words in (
        ("model", "show", "bad.covey"),
        ("model", "check", "bad.covey"),
        ("model", "score", "bad.covey", "--data", data, "--out", "s.csv"),
        ("federated", "train", "--data", data, "--initial", "bad.covey", "--min-clients", "1", "--out", "m.covey"),
        ("cloud", "releases", "add", "bad.covey", "--store", "s.db", "--repository-dir", "repo"),
    ):
        refused(covey(tmp_path, *words), tmp_path, before, "bad.covey")
    agent = covey(tmp_path, "edge", "run", "--device", "d", "--state", "d", "--bundle", "bad.covey")
    assert agent.returncode in {1, 2}
    assert "bad.covey" in agent.stderr
    assert "Traceback" not in agent.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("edge", "run", "--device", "d", "--state", "d"),
        ("gateway", "run"),
        ("cloud", "run"),
        ("cloud", "serve"),
    ],
    ids=" ".join,
)
def test_an_unknown_key_in_a_configuration_is_named(tmp_path, words):
    (tmp_path / "c.toml").write_text('flavour = "vanilla"\n')
    before = names(tmp_path)
    done = covey(tmp_path, *words, "--config", "c.toml")
    refused(done, tmp_path, before, "c.toml", "unknown key 'flavour'")
    assert done.returncode == 2


@pytest.mark.parametrize("part", ["mqtt", "kafka"])
def test_a_port_already_taken_is_named(tmp_path, part):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", f"covey.embedded.{part}", "--port", str(port)],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    refused(done, tmp_path, [], f"127.0.0.1:{port} is taken")
    assert done.returncode == 2


def test_the_bundle_servers_port_already_taken_is_named(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        port = taken.getsockname()[1]
        done = covey(tmp_path, "cloud", "serve", "--repository-dir", str(tmp_path), "--port", str(port))
    assert done.returncode in {1, 2}
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr
