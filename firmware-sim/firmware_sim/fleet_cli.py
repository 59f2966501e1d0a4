"""`covey sim fleet`: a fleet against a broker, with a progress display and a closing line."""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path  # typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from covey.errors import UsageError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from firmware_sim.fleets.progress import Progress

_REFRESH_S = 0.25
_LINE_S = 5.0  # between lines where there is no terminal


def register(app: typer.Typer) -> None:
    """Add the command to `covey sim`."""
    app.command(epilog="Example: covey sim fleet --scenario cut-propellers --devices 200 --seed 7 --stack .covey")(
        fleet
    )


def fleet(
    scenario: Annotated[str, typer.Option(help="Name from `covey sim scenarios`, or a TOML file.")] = "calm-day",
    devices: Annotated[
        int | None, typer.Option(min=1, max=200_000, help="How many; the scenario's own number.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same fleet.")] = 0,
    mqtt: Annotated[str | None, typer.Option(help="Broker, host:port; 127.0.0.1:1883 when left out.")] = None,
    stack: Annotated[Path | None, typer.Option(help="Folder of a running `covey up`: its broker.")] = None,
    ledger: Annotated[Path, typer.Option(help="File for what was sent and what was true.")] = Path("fleet.ledger"),
    seconds: Annotated[float | None, typer.Option(min=1.0, help="Length, s; the scenario's own.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Model of the quadrotors; fitted when left out.")] = None,
    machine_bundle: Annotated[Path | None, typer.Option(help="Model of the machines; fitted when left out.")] = None,
    drain_s: Annotated[float, typer.Option(min=0.0, help="Wait so long for the last acknowledgements, s.")] = 60.0,
    first: Annotated[
        int, typer.Option(min=1, help="Number of the first device: parts of a fleet in several processes.")
    ] = 1,
    user: Annotated[str, typer.Option(help="MQTT user; {device} in it becomes the device's name.")] = "",
    password_file: Annotated[Path | None, typer.Option(help="File with the MQTT password.")] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM file of the broker's authority: TLS.")] = None,
    cert: Annotated[Path | None, typer.Option(help="PEM client certificate, shown by every device.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the ledger of a simulation that was killed.")
    ] = False,
    health_port: Annotated[
        int, typer.Option("--health-port", help="/healthz, /readyz, /metrics on loopback; 0: none.", min=0, max=65_535)
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Simulate a fleet: devices, agents and links against a real broker; exit 1 when something is left unacknowledged."""
    from covey.runtime import install_stop
    from firmware_sim.fleets import launch, metrics
    from firmware_sim.fleets.progress import FleetOptions
    from firmware_sim.scene.scenario import load_scenario

    given = {"quadrotor": bundle, "machine": machine_bundle}
    order = launch.Order(
        scenario=load_scenario(scenario),
        devices=devices,
        seed=seed,
        first=first,
        seconds=seconds,
        mqtt=_broker(mqtt, stack),
        ledger=ledger,
        bundles={body: path for body, path in given.items() if path is not None},
        options=FleetOptions(drain_s=drain_s),
        user=user,
        password=_password(password_file),
        tls=_tls(ca, cert, key),
    )
    stop = install_stop()
    begun_s = time.monotonic()
    with _shown(quiet=quiet) as (told, show), metrics.served(health_port, show) as shown:
        ended = (launch.resume if resume else launch.launch)(order, stop, told, shown)
    result = _result(ended.progress, time.monotonic() - begun_s)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print(result, ledger)
    if not ended.clean:
        raise typer.Exit(1)


def _broker(mqtt: str | None, stack: Path | None) -> tuple[str, int]:
    if stack is None:
        return _host_port(mqtt or "127.0.0.1:1883")
    if mqtt is not None:
        raise UsageError("--mqtt, --stack: one of the two expected, both came")
    from covey.stack import HOST, read_state

    return HOST, int(read_state(stack)["ports"]["mqtt"])


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise UsageError(f"--mqtt: host:port expected, {text!r} came")
    return host, int(port)


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise UsageError(f"--password-file {path}: {error.strerror or error}") from error


def _tls(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if ca is None and (cert is not None or key is not None):
        raise UsageError("--cert, --key: --ca expected beside them")
    if (cert is None) != (key is None):
        raise UsageError("--cert, --key: both or neither expected")
    if ca is None:
        return None
    import ssl

    try:
        context = ssl.create_default_context(cafile=str(ca))
        if cert is not None:
            context.load_cert_chain(str(cert), str(key))
    except OSError as error:  # a missing file, or ssl.SSLError
        raise UsageError(f"--ca {ca}, --cert {cert or 'none'}: {error}") from error
    return context


def _result(progress: Progress, seconds: float) -> dict[str, Any]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "written": dict(progress.written),
        "acknowledged": progress.acknowledged,
        "unacknowledged": progress.backlog,
        "alarms": progress.alarms,
        "windows": progress.windows,
        "connects": progress.connects,
        "connections_lost": progress.lost,
        "resends": progress.resends,
        "sent_bytes": progress.sent_bytes,
        "fleet_s": round(progress.t_s, 3),
        "seconds": round(seconds, 3),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "memory_bytes": usage.ru_maxrss * 1024,
    }


def _print(result: dict[str, Any], ledger: Path) -> None:
    written = ", ".join(f"{count} {kind}" for kind, count in sorted(result["written"].items()))
    typer.echo(f"written         {written}")
    typer.echo(f"acknowledged    {result['acknowledged']}, {result['unacknowledged']} not")
    typer.echo(f"alarms          {result['alarms']} in {result['windows']} windows")
    typer.echo(
        f"connections     {result['connects']} made, {result['connections_lost']} lost, {result['resends']} resends"
    )
    typer.echo(f"bytes sent      {result['sent_bytes']}")
    typer.echo(
        f"cost            {result['cpu_s']:.1f} CPU-s in {result['seconds']:.1f} s, {result['memory_bytes'] / 1e6:.0f} MB"
    )
    typer.echo(f"ledger          {ledger}")


@contextmanager
def _shown(*, quiet: bool) -> Iterator[tuple[Callable[[str, int, int], None], Callable[[Progress], None]]]:
    from firmware_sim.fleets.view import lines, live, silent

    with silent() if quiet else live(_REFRESH_S) if sys.stderr.isatty() else lines(_LINE_S) as shown:
        yield shown
