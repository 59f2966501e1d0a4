"""The command line: light to start, every command with an example, the README's commands real."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer.main

from covey.cli import build

ROOT = Path(__file__).parents[2]
HEAVY = (
    "numpy",
    "paho",
    "onnxruntime",
    "confluent_kafka",
    "flwr",
    "tuf",
    "sqlalchemy",
    "tflite_runtime",
    "ai_edge_litert",
)


def commands(group, words=()):
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            if command.invoke_without_command:
                yield (*words, name), command
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


TREE = typer.main.get_command(build())
ALL = dict(commands(TREE))


def covey(*words, code=None):
    start = ["-c", code] if code else ["-m", "covey"]
    return subprocess.run([sys.executable, *start, *words], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("words", [(), ("edge",), ("gateway",), ("cloud",), ("federated",), ("sim",), ("model",)])
def test_help_loads_no_heavy_library(words):
    code = (
        "import sys; sys.argv = ['covey', *sys.argv[1:]]\n"
        "from covey.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', [m for m in {HEAVY} if m in sys.modules])"
    )
    done = covey(*words, "--help", code=code)
    assert "LOADED []" in done.stdout, done.stdout[-500:] + done.stderr[-500:]


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_says_what_it_does_and_shows_an_example(words):
    command = ALL[words]
    assert (command.help or "").strip()
    example = (command.epilog or "").removeprefix("Example: ")
    assert example.startswith(f"covey {' '.join(words)}"), command.epilog
    used = set(re.findall(r" (--[a-z][a-z0-9-]*)", example.split(" -- ")[0]))  # behind it: another command's
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    assert used <= known, used - known


def test_every_command_of_the_readme_exists_with_its_options():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"(?m)^covey ([^#\n]+)", page)
    assert len(lines) >= 10
    for line in lines:
        words = line.split()
        depth = next((n for n in (3, 2, 1) if tuple(words[:n]) in ALL), None)
        assert depth is not None, line
        known = {o for p in ALL[tuple(words[:depth])].params for o in (*p.opts, *p.secondary_opts)}
        assert {w for w in words if w.startswith("--")} <= known, line


def test_the_commands_of_the_design_exist():
    promised = (
        "demo",
        "up",
        "down",
        "status",
        *(f"edge {c}" for c in ("run", "status", "doctor", "config")),
        *(f"gateway {c}" for c in ("run", "status", "check")),
        *(f"cloud {c}" for c in ("run", "serve", "watch", "devices", "alarms", "why", "export", "releases add")),
        *(f"federated {c}" for c in ("train", "show")),
        *(f"model {c}" for c in ("fit", "score", "show", "check", "bench")),
        *(
            f"sim {c}"
            for c in ("fleet", "report", "scenarios", "vehicle", "flights", "machine", "faults", "mavlink", "realism")
        ),
    )
    for line in promised:
        assert tuple(line.split()) in ALL, line


def test_a_missing_library_is_one_line_that_says_what_to_install():
    code = (
        "import sys; sys.modules['confluent_kafka'] = None; sys.argv = ['covey', *sys.argv[1:]]\n"
        "from covey.cli import main; main()"
    )
    done = covey("gateway", "check", code=code)
    assert done.returncode == 2
    assert done.stderr == "covey: confluent_kafka is not installed: pip install 'covey[gateway]'\n"


def test_an_unknown_command_or_option_is_usage():
    for words in (("fly",), ("edge", "fly"), ("demo", "--fly")):
        done = covey(*words)
        assert done.returncode == 2
        assert "No such" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_version_is_the_distributions():
    from importlib.metadata import version

    assert covey("--version").stdout == f"covey {version('covey')}\n"
