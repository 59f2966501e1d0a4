"""`covey edge`: help with an example, light imports, one line for what is wrong; doctor and its probe."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
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


@pytest.mark.parametrize("command", ["run", "install", "uninstall", "status", "config", "sources", "doctor"])
def test_help_shows_a_real_example(command):
    answer = CliRunner().invoke(app, [command, "--help"])
    assert answer.exit_code == 0
    assert f"Example: covey edge {command}" in " ".join(answer.output.split())


def test_the_commands_are_light_until_they_run():
    code = "import sys, edge.cli\nprint([m for m in ('numpy', 'paho', 'tuf', 'onnxruntime', 'edge.unit', 'edge.doctor') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "[]"


def test_config_names_every_bad_key(tmp_path):
    (tmp_path / "a.toml").write_text('device = "a/b"\nstate = "s"\nmqtt = "nowhere"\nruntime = "tensor"\n')
    answer = covey_edge("config", "--config", str(tmp_path / "a.toml"), "--check")
    assert answer.returncode == 2
    assert all(key in answer.stderr for key in ("device:", "mqtt:", "runtime:"))
    assert answer.stderr.count("\n") == 1


def test_config_shows_what_run_would_use_and_where_it_comes_from(tmp_path):
    path = tmp_path / "a.toml"
    (tmp_path / "word").write_text("hush")
    path.write_text(
        f'device = "d1"\nstate = "s"\nspeed = 2\nmqtt_user = "u"\nmqtt_password_file = "{tmp_path / "word"}"\n'
    )
    env = {**os.environ, "COVEY_EDGE_FLUSH_S": "3"}
    words = ("config", "--config", str(path), "--source", "a.csv", "--speed", "4")
    answer = covey_edge(*words, "--json", env=env)
    assert answer.returncode == 0
    told = json.loads(answer.stdout)
    assert told["device"] == {"value": "d1", "source": f"{path}:1"}
    assert told["speed"] == {"value": 4.0, "source": "option --speed"}
    assert told["sources"] == {"value": ["a.csv"], "source": "option --source"}
    assert told["flush_s"] == {"value": 3.0, "source": "environment COVEY_EDGE_FLUSH_S"}
    assert told["runtime"] == {"value": "auto", "source": "default"}
    assert "hush" not in answer.stdout  # a secret is shown as its path
    rows = [line.split() for line in covey_edge(*words, env=env).stdout.splitlines()]
    assert ["speed", "4.0", "option", "--speed"] in rows
    assert ["runtime", '"auto"', "default"] in rows


def test_config_tells_of_files_that_are_not_there_beside_other_mistakes(tmp_path):
    (tmp_path / "a.toml").write_text('device = "d"\nstate = "s"\nbundle = "none.covey"\nprot = 1\n')
    answer = covey_edge("config", "--config", str(tmp_path / "a.toml"), "--check")
    assert answer.returncode == 2
    assert "unknown key 'prot'" in answer.stderr
    assert "bundle: no such file: none.covey" in answer.stderr


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


def test_every_command_in_the_recipes_exists_with_its_options():
    text = (Path(__file__).parents[2] / "docs" / "devices.md").read_text()
    commands = typer.main.get_command(app).commands
    told = [
        line.split("#")[0]
        for part in re.findall(r"```\n(.*?)```|`([^`\n]+)`", text, re.DOTALL)
        for line in "\n".join(part).splitlines()
    ]
    used = [found for line in told if (found := re.search(r"covey edge ([a-z]+)(.*)", line))]
    assert {one[1] for one in used} >= {"install", "uninstall", "doctor", "config", "sources", "status", "run"}
    for one in used:
        options = {name for param in commands[one[1]].params for name in param.opts}
        assert set(re.findall(r"--[a-z-]+", one[2])) <= options, one[0]
