"""`covey sim report`: the ledger's verdict on what the store holds. NumPy and matplotlib are loaded inside the command."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from covey.errors import DataError, StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firmware_sim.report import Report


def register(app: typer.Typer) -> None:
    """Add the command to `covey sim`."""
    app.command(epilog="Example: covey sim report --ledger fleet.ledger --events events.jsonl --html report.html")(
        report
    )


def report(
    ledger: Annotated[Path, typer.Option("--ledger", help="What `covey sim fleet --ledger` wrote.")],
    events: Annotated[Path, typer.Option("--events", help="What `covey cloud export` wrote; - for stdin.")],
    html: Annotated[Path | None, typer.Option("--html", help="Also write one HTML file with plots.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Compare a simulated fleet's truth with the store: lost, double, late, delays, and which alarms were right.

    Exit 0: nothing that was acknowledged is missing, double, conflicting or invented. Exit 1: something is; the first are named.
    Exit 2: a file cannot be used.
    """
    import msgspec

    from covey.runtime import write_whole
    from firmware_sim.facts import read_facts
    from firmware_sim.report import compare
    from firmware_sim.stored import read_lines

    try:
        facts = read_facts(ledger)
        with _source(events) as (file, name):
            found = compare(facts, read_lines(file, name))
    except (DataError, StoreError) as error:  # exit 1 is a verdict here, and nothing else
        raise UsageError(str(error)) from error
    if html is not None:
        from firmware_sim.report_html import page

        try:
            write_whole(html, page(found).encode())
        except OSError as error:
            raise UsageError(f"--html: {html}: cannot be written: {error.strerror or error}") from error
    if found.live:
        typer.echo(f"{ledger}: a simulator is writing it; the figures move", err=True)
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found)).decode() + "\n")
    else:
        _print(found)
    if not found.clean:
        raise typer.Exit(1)


@contextmanager
def _source(events: Path) -> Iterator[tuple[BinaryIO, str]]:
    if str(events) == "-":
        yield sys.stdin.buffer, "stdin"
        return
    try:
        file = events.open("rb")
    except OSError as error:
        raise UsageError(f"--events: {events}: cannot be read: {error.strerror or error}") from error
    with file:
        yield file, str(events)


def _print(found: Report) -> None:
    from firmware_sim import report_text as text

    what = f"{found.scenario or 'fleet'}: {found.devices} devices, {found.device_hours:.3g} device hours"
    sys.stdout.write(f"{what}\n\n{text.aligned(text.verdict_rows(found))}\n")
    for columns, rows in (text.delivery_rows(found), text.detection_rows(found)):
        sys.stdout.write(text.aligned([columns, *rows]) + "\n")
    seen = found.detection
    sys.stdout.write(
        f"alarms: {seen.arrived} arrived of {seen.raised} raised; {seen.true_alarms} during a fault, {seen.drift_alarms} "
        f"during a drift only, {seen.false_alarms} with nothing wrong\n"
        f"false alarms per fault-free flight hour: {text.number(seen.false_alarms_per_flight_hour)}; "
        f"never ended: {seen.never_ended}; ends that did not arrive: {seen.ends_missing}\n"
    )
    for one in found.problems:
        sys.stdout.write(f"{one.what.replace('_', ' ')}: {one.event}\n")
    sys.stdout.write(f"verdict: {'clean' if found.clean else 'NOT CLEAN'}\n")
