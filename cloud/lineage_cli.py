"""`covey cloud lineage`: lineage of models and alarms as OpenLineage events, into a file or to a server."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud.options import Store  # noqa: TC001  # typer reads annotations when it runs
from covey.errors import DataError, LinkError, MissingExtra, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


def register(app: typer.Typer) -> None:
    """Add the command to `covey cloud`."""
    app.command(epilog="Example: covey cloud lineage --out lineage.jsonl --from 2026-12-01 --store covey.db")(lineage)


def lineage(
    out: Annotated[Path | None, typer.Option("--out", help="File to write, an event a line; - for stdout.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="OpenLineage server, as http://marquez:5000.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Date or time (UTC) of the first.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Date or time (UTC) before which the last lies.")] = None,
    store: Store = None,
) -> None:
    """Tell training runs, releases and alarms as OpenLineage run events; telling them again changes nothing there."""
    from cloud import show_cli

    if (out is None) == (url is None):
        raise UsageError("lineage: --out or --url expected, and one of them only")
    try:
        from openlineage.client.serde import Serde

        from cloud.lineage import events
    except ModuleNotFoundError as error:
        raise MissingExtra("lineage", error.name or "openlineage") from error
    count = 0
    with show_cli.opened(store) as engine:
        found = events(engine, time_of("--from", from_), time_of("--to", to))
        if url is not None:
            for event in found:
                _send(url, Serde.to_json(event))
                count += 1
        else:
            count = _write(out or Path("-"), (Serde.to_json(event) for event in found))
    typer.echo(f"{count} events told", err=True)


def _write(out: Path, lines: Iterable[str]) -> int:
    from covey.runtime import write_whole

    told = [f"{line}\n" for line in lines]
    if str(out) == "-":
        typer.echo("".join(told), nl=False)
        return len(told)
    try:
        write_whole(out, "".join(told).encode())
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
    return len(told)


def _send(url: str, body: str) -> None:
    import urllib.error
    import urllib.request

    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url: http:// or https:// expected, {url[:80]!r} received")
    where = url.rstrip("/") + "/api/v1/lineage"
    request = urllib.request.Request(where, body.encode(), {"Content-Type": "application/json"})  # noqa: S310  # checked above
    try:
        with urllib.request.urlopen(request, timeout=10.0) as answer:  # noqa: S310
            answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise LinkError(f"{where}: {error}") from error


def time_of(option: str, text: str | None) -> float | None:
    """A date or time in UTC as seconds since the epoch; None where nothing is given."""
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{option}: a date or time as 2026-12-01T08:00 expected, {text[:40]!r} received") from error
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()
