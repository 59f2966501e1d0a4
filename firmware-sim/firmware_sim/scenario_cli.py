"""`covey sim scenarios`: the library, what a scenario would do, and whether a file is one. NumPy is loaded when a plan is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from covey.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from firmware_sim.scenario import Scenario


def register(app: typer.Typer) -> None:
    """Add the command to `covey sim`."""
    app.command(epilog="Example: covey sim scenarios --show cut-propellers --devices 200")(scenarios)


def scenarios(
    show: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="What a fleet of this scenario would do.")
    ] = None,
    check: Annotated[
        str | None, typer.Option(metavar="FILE", help="Check a scenario; exit 2 names every bad key.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="For --show; the scenario's own number if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="For --show: the same seed plans the same fleet.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """List the scenarios that come with covey, show what one does, or check a file of your own."""
    from firmware_sim.scenario import library, load_scenario

    if show is not None and check is not None:
        raise UsageError("--show and --check: one of them expected, both came")
    if show is None and (devices is not None or seed):
        raise UsageError("--devices and --seed: --show NAME expected beside them, nothing came")
    if check is not None:
        scenario = load_scenario(check)
        checked = {"file": check, "ok": True, "name": scenario.name, "devices": scenario.devices}
        _print_json(checked) if as_json else print(f"{check}: good ({_outline_of(scenario)})")
    elif show is not None:
        from firmware_sim.plan import plan_fleet
        from firmware_sim.plan_outline import outline

        told = outline(plan_fleet(load_scenario(show), devices, seed))
        _print_json(told) if as_json else _print_outline(told)
    else:
        loaded = [load_scenario(name) for name in library()]
        if as_json:
            _print_json([{k: getattr(s, k) for k in ("name", "title", "devices", "duration_s")} for s in loaded])
            return
        _print_table(
            ("scenario", "devices", "seconds", "what it is"),
            [(s.name, str(s.devices), f"{s.duration_s:g}", s.title) for s in loaded],
        )


def _outline_of(scenario: Scenario) -> str:
    return f"{scenario.devices} devices, {scenario.duration_s:g} s, {len(scenario.changes)} changes"


def _print_outline(told: Mapping[str, Any]) -> None:
    import textwrap

    print(f"{told['name']}: {told['title']}")
    for key in ("description", "expect"):
        if told[key]:
            print(textwrap.fill(told[key], 100, initial_indent="  ", subsequent_indent="  "))
    rows = [
        ("devices", ", ".join(f"{n} {body}s" for body, n in told["devices"].items() if n)),
        ("seconds", f"{told['duration_s']:g}"),
        ("links", ", ".join(f"{n} {link}" for link, n in told["links"].items())),
        ("recordings to make", f"{told['recordings']['flights']} flights, {told['recordings']['runs']} machine runs"),
        (
            "simulated for them",
            f"{told['recordings']['flight_s']:g} s in the air, {told['recordings']['run_s']:g} s of machines",
        ),
        ("flights played", f"{told['flights_played']}, at most {told['most_in_the_air']} at a time"),
        ("summaries expected", f"about {told['summaries_expected']}"),
        ("connections cut", str(told["cuts"])),
        ("reboots", str(told["reboots"])),
        ("outages", str(told["outages"])),
    ]
    print()
    _print_table((), rows)
    print()
    changes = [
        (kind, c["category"], str(c["devices"]), f"{c['first_s']:.1f} to {c['last_s']:.1f} s")
        for kind, c in told["changes"].items()
    ]
    if changes:
        _print_table(("change", "category", "devices", "onsets"), changes)
    else:
        print("no faults and no drifts: every alarm would be a false one")


def _print_json(value: object) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value)).decode())


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [columns, *rows] if columns else list(rows)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
