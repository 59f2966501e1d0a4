"""`covey sim realism`: simulated flights against real ones, as a table and a page with plots."""

from __future__ import annotations

from pathlib import Path  # typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from firmware_sim.realism import Comparison


def register(app: typer.Typer) -> None:
    """Add the command to `covey sim`."""
    app.command(epilog="Example: covey sim realism --flights crazypad --sim-flights 12 --html realism.html")(realism)


def realism(
    flights: Annotated[Path, typer.Option(help="Folder of real flights with their manifest.csv, as CrazyPAD's.")],
    sim_flights: Annotated[int, typer.Option(min=2, max=500, help="Simulated flights of each group.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="The same seed flies the same flights.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Page to write, plots inside.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare statistics of simulated flights with those of real ones, healthy and by depth of a cut."""
    import msgspec

    from firmware_sim.realism import compare, fly_like, read_real

    real = read_real(flights)
    found = compare(fly_like(real, sim_flights, seed), real)
    if html is not None:
        from covey.errors import UsageError
        from covey.runtime import write_whole
        from firmware_sim.realism_html import page

        try:
            write_whole(html, page(found).encode())
        except OSError as error:
            raise UsageError(f"{html}: a writable place expected, {error.strerror or error} came") from error
        typer.echo(f"{html} written", err=True)
    if as_json:
        typer.echo(msgspec.json.encode({"rows": as_rows(found)}).decode())
        return
    typer.echo(table(found))


def as_rows(found: Comparison) -> list[dict[str, object]]:
    """The table as objects."""
    from firmware_sim.realism import TUNED

    return [
        {
            "group": row.group,
            "figure": row.figure,
            "unit": TUNED[row.figure][0],
            "sim": row.sim,
            "real": row.real,
            "ratio": row.ratio,
            "off": row.off,
            "tuned": TUNED[row.figure][1],
        }
        for row in found.rows
    ]


def table(found: Comparison) -> str:
    """The table as text: one block a group, `off` where sim and real are more than a factor of 2 apart."""
    from firmware_sim.realism import TUNED

    lines = []
    real = {group.name: len(group.per_flight) for group in found.real}
    sim = {group.name: len(group.per_flight) for group in found.sim}
    for name in dict.fromkeys(row.group for row in found.rows):
        lines += [f"{name}: {sim[name]} simulated, {real[name]} real flights"]
        lines += [f"  {'figure':<36} {'unit':<5} {'sim':>9} {'real':>9} {'ratio':>6}       tuned"]
        for row in (r for r in found.rows if r.group == name):
            unit, tuned = TUNED[row.figure]
            said = "off" if row.off else ""
            lines.append(
                f"  {row.figure:<36} {unit:<5} {row.sim:>9.3g} {row.real:>9.3g} {row.ratio:>6.2f}  {said:<3}  {tuned}".rstrip()
            )
    off = sum(row.off for row in found.rows)
    return "\n".join([*lines, f"{off} of {len(found.rows)} figures are off by more than a factor of 2"])
