"""`covey cloud rules`: check a file of routing rules, and see which rule an alarm fits and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloud.options import AsJson  # noqa: TC001  # typer reads annotations when it runs
from covey.errors import DataError, WireError

if TYPE_CHECKING:
    from covey import wire
    from covey.wire_alarms import Enriched

app = typer.Typer(
    help="Routing rules of alarms.",
    epilog="Example: covey cloud rules check rules.toml --alarm alarm.json",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _rules() -> None:
    """Routing rules of alarms."""


@app.command(epilog="Example: covey cloud rules check rules.toml --alarm alarm.json")
def check(
    file: Annotated[Path, typer.Argument(help="TOML file of rules; docs/routing.md.")],
    alarm: Annotated[
        Path | None, typer.Option("--alarm", help="An alarm's event: as its device wrote it, enriched or routed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the file; with an alarm, show each rule's conditions against it, up to the one that fits."""
    from cloud import output
    from cloud.stream import rules, rules_file

    routing = rules_file.load(str(file))
    if alarm is None:
        summary = {
            "rules": [one.name for one in routing.rules],
            "otherwise": routing.otherwise,
            "webhooks": [*routing.webhooks],
            "mailboxes": [*routing.mailboxes],
        }
        if as_json:
            output.print_json(summary)
        else:
            output.print_pairs({name: ", ".join(v) if isinstance(v, list) else v for name, v in summary.items()})
        return
    identity, data = _read(alarm)
    known = rules.facts(data, identity.device)
    rows: list[dict[str, Any]] = []
    chosen = None
    for rule in routing.rules:
        findings = rules.examine(rule, known, data.received_s)
        fits = all(one.fits for one in findings)
        rows += [
            {"rule": rule.name, "condition": one.condition, "found": one.found, "fits": one.fits}
            for one in findings or [rules.Finding("(always)", "", fits=True)]
        ]
        if fits:
            chosen = rule
            break
    verdict = {
        "event": str(identity),
        "rule": "" if chosen is None else chosen.name,
        "level": routing.otherwise if chosen is None else chosen.level,
        "targets": [] if chosen is None else [*chosen.targets],
    }
    if as_json:
        output.print_json({**verdict, "conditions": rows})
        return
    cells = [[one["rule"], one["condition"], one["found"], "fits" if one["fits"] else "no"] for one in rows]
    output.print_table(("rule", "condition", "found", "fits"), cells)
    told = ", ".join(verdict["targets"]) or "nobody"
    print(f"{verdict['event']}: {verdict['level']} by {verdict['rule'] or 'no rule'}; told: {told}")


def _read(path: Path) -> tuple[wire.Identity, Enriched]:
    from cloud.stream.context import stale
    from covey import wire
    from covey.wire_alarms import ENRICHED_TYPE, ROUTED_TYPE, Enriched, decode_enriched, decode_routed

    try:
        payload = path.read_bytes().strip()
        event = wire.decode(wire.Event, payload)
        if event.type == ENRICHED_TYPE:
            identity, data, _ = decode_enriched(payload)
            return identity, data
        if event.type == ROUTED_TYPE:
            identity, routed, _ = decode_routed(payload)
            whole = Enriched(routed.alarm, routed.alarm_time, routed.received_s, routed.context, routed.enriched_s)
            return identity, whole
        event, identity = wire.decode_event(payload)
        alarm = wire.decode_data(event)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except WireError as error:
        raise DataError(f"{path}: {error}") from error
    if not isinstance(alarm, wire.Alarm):
        raise DataError(f"{path}: an alarm's event expected, {event.type} found")
    seconds = _seconds(event.time)
    return identity, Enriched(alarm, event.time, seconds, stale(alarm), seconds)


def _seconds(text: str) -> float:
    from datetime import datetime

    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0
