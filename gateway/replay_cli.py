"""`covey gateway replay`: dead letters once more, after a fix. Libraries load inside the command."""

from __future__ import annotations

import re
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from covey.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.replay import Result

_TELL_EVERY_S = 2.0
_NAMED_AT_MOST = 50  # lines on a terminal; --json has more
_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|min|h|d)")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}


def register(app: typer.Typer) -> None:
    """Add the command to `covey gateway`."""
    app.command(epilog="Example: covey gateway replay --config gateway.toml --reason too_large --since 2d --dry-run")(
        replay
    )


def replay(
    config: Annotated[Path | None, typer.Option("--config", help="The gateway's TOML file: its limits decide.")] = None,
    kafka: Annotated[str | None, typer.Option("--kafka", help="Kafka API, host:port[,host:port].")] = None,
    kafka_kind: Annotated[
        str | None, typer.Option("--kafka-kind", help="kafka, or embedded (Tansu, memory only).")
    ] = None,
    reason: Annotated[
        list[str] | None, typer.Option("--reason", help="Only letters of this reason; may be given again.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="Only letters of this device; may be given again.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option("--topic", help="Only letters whose topic matches this MQTT filter (+ and #).")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", help="Received then or later: 2026-11-23T08:00:00Z (UTC if unsaid), or 90min, 12h, 2d."
        ),
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Received then or earlier, told like --since.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Send at most so many.", min=1)] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Also letters that an earlier replay has sent already.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Pass over, from now on, what was chosen here and cannot be sent.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", help="Give up when Kafka is silent for so long.", min=0.1)
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Send dead letters again, each once, where today's gateway would take them.

    What is still refused stays where it is, for the next replay. Exit 1 when something chosen could not be sent.
    """
    from gateway.config import load_config
    from gateway.filters import problem as filter_problem
    from gateway.letters import Choice

    settings = load_config(config, {"kafka": kafka, "kafka_kind": kafka_kind})
    now_s = time.time()
    since_s = _time("--since", since, now_s) if since else 0.0
    until_s = _time("--until", until, now_s) if until else float("inf")
    if since_s > until_s:
        raise UsageError(f"--since {since}: a time before --until {until} expected")
    problem = filter_problem(topic) if topic is not None else ""
    if problem:
        raise UsageError(f"--topic: {problem}")
    from covey import runtime
    from gateway.replay import Plan, Replay

    plan = Plan(
        choice=Choice(frozenset(reason or ()), frozenset(device or ()), topic or "", since_s, until_s),
        limit=limit,
        from_start=from_start,
        forget=forget,
        dry_run=dry_run,
        patience_s=timeout_s,
    )
    result = Replay(settings, plan, runtime.install_stop(), _teller()).run()
    if as_json:
        import msgspec

        sys.stdout.write(msgspec.json.format(msgspec.json.encode(result)).decode() + "\n")
    else:
        _print(result)
    _talk(result)
    if not result.complete:
        raise typer.Exit(1)


def _time(option: str, text: str, now_s: float) -> float:
    """A point in time, seconds since the epoch: ISO 8601, or so long ago."""
    ago = _AGO.fullmatch(text)
    if ago:
        return now_s - float(ago.group(1)) * _SECONDS[ago.group(2)]
    try:
        read = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{option}: 2026-11-23T08:00:00Z, or 90min, 12h, 2d expected, {text!r} given") from error
    return (read if read.tzinfo else read.replace(tzinfo=timezone.utc)).timestamp()


def _teller() -> Callable[[Result], None]:
    """Says how far a long run is, every other second."""
    from gateway.letters import Outcome

    told_s = time.monotonic()

    def tell(result: Result) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= _TELL_EVERY_S:
            told_s = time.monotonic()
            verb = "would be sent" if result.dry_run else "sent"
            typer.echo(f"{result.read} letters read, {result.count(Outcome.SENT)} {verb}", err=True)

    return tell


def _print(result: Result) -> None:
    from gateway.letters import Outcome

    sent = "would be sent" if result.dry_run else "sent"
    table = [["reason", "chosen", sent, "still refused", "truncated", "unsendable"]]
    rows = [*sorted(result.reasons.items()), ("all", {o: result.count(o) for o in Outcome})]
    for name, outcomes in rows:
        table.append([name, str(sum(outcomes.values())), *(str(outcomes.get(o, 0)) for o in Outcome)])
    widths = [max(len(line[n]) for line in table) for n in range(len(table[0]))]
    for first, *rest in table:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        sys.stdout.write("  ".join(cells) + "\n")


def _talk(result: Result) -> None:
    """What the table does not say: who is left and why, and what was not looked at."""
    for one in result.left[:_NAMED_AT_MOST]:
        who = one.event_id or one.device or "unknown device"
        place = f"partition {one.partition} offset {one.offset}"
        typer.echo(f"not sent: {who}: {one.now}: {one.detail} ({one.reason}, {place})", err=True)
    more = len(result.left) - _NAMED_AT_MOST + result.left_more
    if more > 0:
        typer.echo(f"not sent: {more} more; --json names {len(result.left)} of them", err=True)
    said = ", ".join(f"{count} {name}" for name, count in sorted(result.waiting_for_store.items()))
    if said:
        typer.echo(f"refused by the store, sent only when --reason names them: {said}", err=True)
    if result.not_remembered:
        count = result.not_remembered
        typer.echo(
            f"{count} letters are done but too scattered to be remembered: a next run sends them again", err=True
        )
    if result.done_before:
        typer.echo(f"{result.done_before} letters passed over: done by an earlier replay (--from-start)", err=True)
    if result.stopped:
        typer.echo("stopped before the end: run it again for the rest", err=True)
