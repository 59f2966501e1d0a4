"""`covey gateway status`: one page of what a running gateway does, for people. Asks its health port; changes nothing."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer

from covey.errors import CoveyError, LinkError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ANSWER_S = 5.0
_CLEAR = "\x1b[H\x1b[2J"  # cursor home, erase display (ECMA-48)


def status(
    health_port: Annotated[int | None, typer.Option("--health-port", help="Health port on this machine.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="Base URL of a gateway's health port.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again until Ctrl-C, with rates.")] = False,
    interval_s: Annotated[float, typer.Option("--interval-s", min=0.2, max=3_600, help="Between two, watching.")] = 2.0,
) -> None:
    """Ask a running gateway what it does; exit 1 when it is not ready."""
    if (health_port is None) == (url is None):
        raise UsageError("one of --health-port and --url expected")
    base = url if url is not None else f"http://127.0.0.1:{health_port}"
    if not watch:
        seen = ask(base)
        typer.echo(json.dumps(seen) if as_json else "\n".join(page(seen, time.time())))
        if not seen.get("ready"):
            raise typer.Exit(1)
        return
    from covey import runtime

    stop = runtime.install_stop()
    ready, before, before_s = False, None, 0.0
    while not stop.is_set():
        try:
            seen, at_s = ask(base), time.monotonic()
        except LinkError as error:  # it may be on its way back
            ready, before = False, None
            typer.echo(str(error), err=True)
        else:
            ready = bool(seen.get("ready"))
            lines = page(seen, time.time(), rates(before, seen, at_s - before_s) if before is not None else None)
            typer.echo(json.dumps(seen) if as_json else _CLEAR + "\n".join(lines), color=None)
            before, before_s = seen, at_s
        stop.wait(interval_s)
    if not ready:
        raise typer.Exit(1)


def ask(base: str) -> dict[str, Any]:
    """What `/healthz` of a gateway answers, also when it says that it is not well.

    Raises:
        UsageError: `base` is no http URL.
        LinkError: nobody answers there, or somebody else does.
    """
    try:
        where = urllib.parse.urlsplit(base)
        port = where.port
    except ValueError as error:
        raise UsageError(f"--url: http://host:port expected, {base!r} given") from error
    if where.scheme not in {"http", "https"} or not where.hostname:
        raise UsageError(f"--url: http://host:port expected, {base!r} given")
    kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    connection = kind(where.hostname, port, timeout=_ANSWER_S)
    try:
        connection.request("GET", where.path.rstrip("/") + "/healthz")
        answer = connection.getresponse()
        seen = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise LinkError(f"{base}: no gateway answers: {error}") from error
    finally:
        connection.close()
    if not isinstance(seen, dict) or "gateway" not in seen:
        raise LinkError(f"{base}: no gateway answers: another service has the port (HTTP {answer.status})")
    return seen


def rates(before: Mapping[str, Any], seen: Mapping[str, Any], over_s: float) -> dict[str, float]:
    """Messages a second in and out between two looks; 0 after a restart in between."""
    sums = {"in": "received", "out": "delivered", "refused": "deadletter"}
    return {
        name: max(0.0, (sum(seen[key].values()) - sum(before[key].values())) / max(over_s, 1e-3))
        for name, key in sums.items()
    }


def page(seen: Mapping[str, Any], now_s: float, rate: Mapping[str, float] | None = None) -> list[str]:
    """Lines for people.

    Args:
        seen: what `/healthz` answered, of one process or of a parent.
        now_s: seconds since the epoch.
        rate: what `rates` gave, or None.

    Raises:
        CoveyError: the answer lacks what this version shows.
    """
    try:
        return _page(seen, now_s, rate)
    except (KeyError, TypeError, AttributeError) as error:
        raise CoveyError(f"the gateway's answer is of another version: {error!r} (--json shows it as it is)") from error


def _page(seen: Mapping[str, Any], now_s: float, rate: Mapping[str, float] | None) -> list[str]:
    def per_s(name: str) -> str:
        return "" if rate is None else f" ({rate[name]:,.0f}/s)"

    since_s = seen["start_time_s"]
    state = "ready" if seen["ready"] else f"NOT READY: {_why(seen)}"
    received, delivered, refused = seen["received"], seen["delivered"], seen["deadletter"]
    held = ", HELD BACK: Kafka takes no more" if seen["held_back"] else ""
    lines = [
        f"{seen['gateway']}: {state}",
        _row("since", f"{_date(since_s)} ({_span(now_s - since_s)})" if since_s else "not started"),
        _row("mqtt", f"{seen['mqtt']} {_connected(seen['mqtt_connected'])}")
        + f"; connections {seen['mqtt_connects']}, lost {seen['connection_losses']}",
        _row("kafka", f"{seen['kafka']} {_connected(seen['kafka_connected'])}")
        + f"; events are safe after the {seen['ack_after']}",
        _row(
            "in", f"{_sum(received)} messages{per_s('in')}, {seen['received_bytes'] / 1e6:,.1f} MB: {_parts(received)}"
        ),
        _row("out", f"{_sum(delivered)} records{per_s('out')}: {_parts(delivered)}"),
    ]
    if seen["mapped"]:
        lines.append(_row("mapped", f"{_sum(seen['mapped'])}: {_parts(seen['mapped'])}"))
    lines += [
        _row("refused", f"{_sum(refused)}{per_s('refused')}: {_parts(refused)}"),
        _row("in flight", f"{seen['in_flight']:,} messages, oldest {seen['oldest_s']:.3f} s{held}"),
        _row("kafka queue", f"{seen['kafka_queue']:,} records; produced again {seen['retries']:,}"),
        _row("ack delay", _delay(seen["ack_delay_s"])),
        _row("acks", f"{seen['acks']:,} messages for {seen['ack_events']:,} events; {seen['pubacks']:,} to the broker"),
        _row("desired", f"{seen['desired']:,} published, {seen['desired_known']:,} devices known"),
        _row("commands", f"{seen['commands']:,} published, {seen['commands_waiting']:,} waiting, ")
        + f"{seen['commands_expired'] + seen['commands_given_up']:,} dropped",
    ]
    for about in seen.get("processes", ()):
        state = "ready" if about["ready"] else "not ready" if about["alive"] else "DOWN"
        where = (
            f"pid {about['pid']}, health port {about['health_port']}, starts {about['starts']}, kills {about['kills']}"
        )
        lines.append(_row(f"process {about['process']}", f"shards {about['shards']} {state}; {where}"))
    return lines


def _why(seen: Mapping[str, Any]) -> str:
    down = [str(p["process"]) for p in seen.get("processes", ()) if not p["ready"]]
    if down:
        return f"process {', '.join(down)}"
    if not seen["alive"]:
        return "its loop does not turn"
    away = [name for name in ("mqtt", "kafka") if not seen[f"{name}_connected"]]
    return f"no {' and no '.join(away)}" if away else f"Kafka has confirmed nothing for {seen['oldest_s']:.0f} s"


def _row(name: str, text: str) -> str:
    return f"  {name:<12} {text}"


def _connected(value: float) -> str:
    return "connected" if value else "NOT CONNECTED"


def _sum(counts: Mapping[str, int]) -> str:
    return f"{sum(counts.values()):,}"


def _parts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items() if n) or "none"


def _delay(seen: Mapping[str, Any]) -> str:
    if seen["p50"] is None:
        return "nothing acknowledged yet"
    return f"p50 {_ms(seen['p50'])}, p99 {_ms(seen['p99'])}, of {seen['count']:,} (estimated from the histogram)"


def _ms(value_s: float) -> str:
    return f"{value_s * 1e3:,.1f} ms" if value_s < 1 else f"{value_s:,.1f} s"


def _date(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(seconds: float) -> str:
    minutes, s = divmod(int(max(0.0, seconds)), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days} d {h} h" if days else f"{h} h {m} min" if h else f"{m} min {s} s" if m else f"{s} s"
