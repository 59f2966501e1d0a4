"""`covey up`, `covey down`, `covey status`: the stack of this machine, long-running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from covey.errors import ProcessError, UsageError

DEFAULT_DIR = Path(".covey")  # covey.stack.DEFAULT_DIR, without loading it for --help
Folder = Annotated[Path, typer.Option("--dir", help="Folder of the stack's state.")]
READY_S = 180.0


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    app.command(epilog="Example: covey up --devices 5 --detach")(up)
    app.command(epilog="Example: covey down")(down)
    app.command(epilog="Example: covey status --json")(status)


def up(
    folder: Folder = DEFAULT_DIR,
    devices: Annotated[int, typer.Option(min=0, max=200, help="Simulated devices; 0: none.")] = 5,
    flights: Annotated[Path | None, typer.Option(help="Folder of logs with a manifest.csv, instead.")] = None,
    speed: Annotated[float, typer.Option(min=0.1, max=1000, help="Times real time.")] = 1.0,
    mqtt_port: Annotated[int, typer.Option(min=1, max=65535, help="Loopback port.")] = 1883,
    kafka_port: Annotated[int, typer.Option(min=1, max=65535, help="Loopback port.")] = 9092,
    serve_port: Annotated[int, typer.Option(min=1, max=65535, help="Loopback port of the releases.")] = 8200,
    health_port: Annotated[int, typer.Option(min=1, max=65535, help="Loopback port of the gateway's health.")] = 8081,
    console_port: Annotated[int, typer.Option(min=1, max=65535, help="Loopback port of the console.")] = 8300,
    detach: Annotated[bool, typer.Option("--detach", help="Return when everything answers.")] = False,
) -> None:
    """Start the embedded brokers, gateway, store, console, bundle server and simulated devices, and keep them running."""
    from covey import runtime
    from covey.stack import is_running, read_state
    from covey.up import run

    folder = folder.resolve()
    if (folder / "stack.json").exists() and is_running(read_state(folder)):
        raise UsageError(f"{folder}: a stack runs there already: covey down --dir {folder}")
    ports = {"mqtt": mqtt_port, "kafka": kafka_port, "serve": serve_port, "health": health_port}
    ports["console"] = console_port
    if len(set(ports.values())) != len(ports):
        raise UsageError(f"five different ports expected, {', '.join(map(str, ports.values()))} received")
    if detach:
        _detach(folder, devices, flights, speed, ports)
        return
    stop = runtime.install_stop()
    runtime.start_logging("up")
    run(folder, ports, devices, flights.resolve() if flights else None, speed, stop)


def down(folder: Folder = DEFAULT_DIR) -> None:
    """Stop the stack and wait until it has ended; what it stored stays."""
    from covey.stack import is_running, read_state, wait_gone

    state = read_state(folder.resolve())
    if not is_running(state):
        typer.echo("not running", err=True)
        return
    os.kill(int(state["pid"]), signal.SIGTERM)
    wait_gone(int(state["pid"]), 60.0, threading.Event())
    typer.echo("down", err=True)


def status(folder: Folder = DEFAULT_DIR, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Which parts run, where, and what is embedded; exit 1 when the stack does not run."""
    from covey.stack import is_running, read_state

    state = read_state(folder.resolve())
    running = is_running(state)
    parts = {name: running and _alive(pid) for name, pid in state["parts"].items()}
    if as_json:
        typer.echo(json.dumps({**state, "running": running, "alive": parts}))
    else:
        typer.echo(f"{'running' if running else 'not running'}, store {state['store']}")
        for name, alive in parts.items():
            port = state["ports"].get({"gateway": "health"}.get(name, name), "")
            typer.echo(f"{name:<32} {'up' if alive else 'down':<5} {port}")
        for part, words in state["embedded"].items():
            typer.echo(f"embedded {part}: {words}")
    if not running:
        raise typer.Exit(1)


def _detach(folder: Path, devices: int, flights: Path | None, speed: float, ports: dict[str, int]) -> None:
    from covey.processes import covey_command

    folder.mkdir(parents=True, exist_ok=True)
    state, log = folder / "stack.json", folder / "up.log"
    state.unlink(missing_ok=True)
    words = ["up", "--dir", str(folder), "--devices", str(devices), "--speed", str(speed)]
    words += [w for name, port in ports.items() for w in (f"--{name}-port", str(port))]
    words += ["--flights", str(flights.resolve())] if flights else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            covey_command(*words), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + READY_S
    while not state.exists():
        if process.poll() is not None:
            raise ProcessError(
                "up", f"ended with exit code {process.returncode}", log.read_text(errors="replace")[-3000:]
            )
        if time.monotonic() > deadline:
            process.terminate()
            raise ProcessError("up", f"not ready after {READY_S:.0f} s", log.read_text(errors="replace")[-3000:])
        time.sleep(0.1)
    typer.echo(f"up: covey status --dir {folder}; covey down --dir {folder}", err=True)
    typer.echo(f"console: http://127.0.0.1:{ports['console']}", err=True)


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rsplit(")", 1)[-1].split()[0] != "Z"
