"""`covey edge`: help with an example, light imports, one line for what is wrong; doctor and its probe."""

import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from edge.cli import app
from edge.probe import model_bytes
from edge.scoring.runtimes import available
from federated.compile.graph import Dense
from federated.compile.onnx_writer import write_onnx
from federated.compile.quantize import observe, quantize
from federated.compile.tflite_writer import write_tflite

CODE = "from covey.cli import one_line\nfrom edge.cli import app\nwith one_line():\n    app(standalone_mode=False)"


def covey_edge(*words, env=None):
    return subprocess.run(
        [sys.executable, "-c", CODE, *words], capture_output=True, text=True, timeout=60, check=False, env=env
    )


@pytest.mark.parametrize("command", ["run", "status", "config", "doctor"])
def test_help_shows_a_real_example(command):
    answer = CliRunner().invoke(app, [command, "--help"])
    assert answer.exit_code == 0
    assert f"Example: covey edge {command}" in " ".join(answer.output.split())


def test_the_commands_are_light_until_they_run():
    code = "import sys, edge.cli\nprint([m for m in ('numpy', 'paho', 'tuf', 'onnxruntime') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "[]"


def test_config_names_every_bad_key(tmp_path):
    (tmp_path / "a.toml").write_text('device = "a/b"\nstate = "s"\nmqtt = "nowhere"\nruntime = "tensor"\n')
    answer = covey_edge("config", "--config", str(tmp_path / "a.toml"), "--check")
    assert answer.returncode == 2
    assert all(key in answer.stderr for key in ("device:", "mqtt:", "runtime:"))
    assert answer.stderr.count("\n") == 1


def test_config_shows_what_run_would_use(tmp_path):
    (tmp_path / "a.toml").write_text('device = "d1"\nstate = "s"\nspeed = 2\n')
    answer = covey_edge("config", "--config", str(tmp_path / "a.toml"))
    assert answer.returncode == 0
    assert (json.loads(answer.stdout)["speed"], json.loads(answer.stdout)["device"]) == (2.0, "d1")


def test_status_without_an_agent_is_one_line(tmp_path):
    answer = covey_edge("status", "--state", str(tmp_path))
    assert answer.returncode == 2
    assert answer.stderr.startswith("covey: ")


def test_doctor_says_which_runtimes_have_just_run():
    answer = covey_edge("doctor", "--json")
    found = json.loads(answer.stdout)
    assert answer.returncode == 0
    assert {one["runtime"] for one in found["runtimes"] if one["ok"]} == set(available())
    assert all(one["version"] and one["provider"] for one in found["runtimes"] if one["ok"])
    assert all(one["fix"] for one in found["runtimes"] if not one["ok"])


def test_the_probe_is_what_our_writers_make():
    weight = np.array([[1, 0], [0, -1]], np.float32)
    graph = (Dense(weight, np.zeros(2, np.float32)),)
    qgraph = quantize(graph, observe(graph, np.array([[-1, -1], [1, 1]], np.float32)))
    assert model_bytes("onnx") == write_onnx(qgraph)
    assert model_bytes("litert") == write_tflite(qgraph)
