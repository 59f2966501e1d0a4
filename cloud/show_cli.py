"""`covey cloud why` and `covey cloud watch`, and the rows that tables of devices and alarms are made of."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloud.options import AsJson, Store  # noqa: TC001  # typer reads annotations when it runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from sqlalchemy.engine import Engine

REFRESH_S = 1.0


def store_url(url: str | None) -> str:
    """The store that is meant: the one of `covey up` in this folder when nothing is said."""
    from pathlib import Path

    from cloud.config import DEFAULT_STORE
    from covey.stack import DEFAULT_DIR, STORE_FILE

    here = Path(DEFAULT_DIR) / STORE_FILE
    return url or (str(here) if here.exists() else DEFAULT_STORE)


@contextmanager
def opened(url: str | None) -> Iterator[Engine]:
    """An existing store, for a command's time."""
    from cloud.store.schema import open_store

    engine = open_store(store_url(url), create=False)
    try:
        yield engine
    finally:
        engine.dispose()


def register(app: typer.Typer) -> None:
    """Add the commands to `covey cloud`."""
    app.command(epilog="Example: covey cloud why drone-3/9f86d081884c7d65/41 --store covey.db")(why)
    app.command(epilog="Example: covey cloud learning --store covey.db --kind reported")(learning)
    app.command(epilog="Example: covey cloud watch --store covey.db --seconds 60")(watch)


def device_cells(row: dict[str, Any]) -> list[Any]:
    """A device's line."""
    from cloud import output

    reported = row["reported"] or {}
    return [
        row["device"],
        row["group"],
        row["online"],
        row["release"],
        row["desired"],
        reported.get("runtime", "-"),
        reported.get("state", "-"),
        row["windows"],
        row["alarms"],
        row["open_alarms"],
        output.ago(row["last_seen_s"]),
    ]


def alarm_cells(row: dict[str, Any]) -> list[Any]:
    """An alarm's line."""
    from cloud import output

    return [
        row["alarm_id"],
        row["device"],
        output.clock(row["begin_s"]),
        row["state"],
        row["top_channel"],
        row["peak_score"],
        row["threshold"],
        row["windows"],
        row["release"],
        row["flight"] or "-",
    ]


def why(
    name: Annotated[str, typer.Argument(metavar="EVENT_OR_ALARM_ID", help="<device>/<outbox>/<seq>, or an alarm id.")],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """The chain from sensor to decision: window, model, score, attribution, what was stored."""
    from cloud import output
    from cloud.store.why import why as chains_of

    with opened(store) as engine:
        chains = chains_of(engine, name)
    if as_json:
        output.print_json(chains)
        return
    for n, chain in enumerate(chains):
        if n:
            print()
        output.print_pairs(chain)


def learning(
    store: Store = None,
    kind: Annotated[str | None, typer.Option("--kind", help="release, desired, reported or round.")] = None,
    as_json: AsJson = False,
) -> None:
    """Steps of the loop in order: releases published, wanted, first seen running."""
    from cloud import output
    from cloud.store import reader

    with opened(store) as engine:
        rows = reader.learning(engine, kind=kind)
    if as_json:
        output.print_json(rows)
        return
    columns = ("time", "kind", "group", "device", "release", "digest", "detail")
    lines = [
        [output.clock(row["time_s"]), row["kind"], row["group"], row["device"] or "-", row["release"]]
        + [output.short(row["digest"]), row["detail"]]
        for row in rows
    ]
    output.print_table(columns, lines)


def watch(
    store: Store = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="End after this long.", min=0)] = None,
) -> None:
    """Look at the fleet live: groups, alarms, why, verdicts by one key; plain pictures where there is no terminal."""
    import sys

    if sys.stdin.isatty() and sys.stdout.isatty():
        from cloud.console.watch import Watch

        with opened(store) as engine:
            Watch(engine, seconds).run()
        return
    from rich.console import Console
    from rich.live import Live

    from covey import runtime

    stop = runtime.install_stop()
    end = None if seconds is None else time.monotonic() + seconds
    with opened(store) as engine, Live(picture(engine), console=Console(), auto_refresh=False) as live:
        while not stop.is_set():
            left = REFRESH_S if end is None else min(REFRESH_S, end - time.monotonic())
            if left <= 0:
                break
            stop.wait(left)
            live.update(picture(engine), refresh=True)


def picture(engine: Engine) -> RenderableType:
    """What `watch` shows of one moment."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from cloud import output
    from cloud.store import reader

    fleet, alarms, counts = reader.fleet(engine), reader.alarms(engine, limit=8), reader.counts(engine)
    devices = Table(title="devices", title_justify="left", expand=False)
    for column in ("device", "group", "online", "release", "wanted", "runtime", "state"):
        devices.add_column(column)
    for column in ("windows", "alarms", "open"):
        devices.add_column(column, justify="right")
    devices.add_column("seen")
    for row in fleet:
        style = "red" if row["open_alarms"] else "dim" if row["online"] is False else ""
        devices.add_row(*(Text(output.text(cell)) for cell in device_cells(row)), style=style)
    raised = Table(title="newest alarms", title_justify="left", expand=False)
    for column in ("alarm", "device", "begun", "state", "channel", "peak", "threshold", "windows", "release", "flight"):
        raised.add_column(column)
    for row in alarms:
        cells = (Text(output.text(cell)) for cell in alarm_cells(row))  # names come from devices: never markup
        raised.add_row(*cells, style="red" if row["state"] == "begin" else "")
    told = ("events", "windows", "alarms", "open_alarms", "duplicates_refused", "conflicts", "undecodable", "missing")
    line = "   ".join(f"{name.replace('_', ' ')} {counts[name]}" for name in told)
    return Group(devices, raised, Text(line))
