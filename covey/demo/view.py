"""What a person sees of the demo: live on stderr, the report on stdout."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from covey.demo.story import Progress

MOST_ROWS = 24  # a terminal's height


@contextmanager
def showing(progress: Progress) -> Iterator[None]:
    """Show progress: a live table on a terminal, a line per phase elsewhere."""
    console = Console(stderr=True)
    done = threading.Event()
    if console.is_terminal:
        with Live(get_renderable=lambda: _table(progress), console=console, refresh_per_second=4, transient=True):
            yield
        return
    watcher = threading.Thread(target=_lines, args=(progress, console, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join(5)


def print_report(report: dict[str, Any]) -> None:
    """The report for people, on stdout."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title="devices", title_justify="left", box=None, pad_edge=False)
    for column in ("device", "runtime", "fault", "windows", "alarms", "after s", "channel", "release"):
        table.add_column(column, justify="right" if column in {"windows", "alarms", "after s"} else "left")
    for row in report["devices"]:
        delay = "" if row["alarm_delay_s"] is None else f"{row['alarm_delay_s']:.1f}"
        table.add_row(
            row["id"],
            row["runtime"],
            row["fault"] or "-",
            str(row["windows"]),
            str(row["alarms"]),
            delay,
            row["top_channel"],
            f"{row['release_before']} -> {row['release_after']}",
        )
    console.print(table)
    messages, size = report["messages"], report["bytes"]
    console.print(
        f"\nmessages: {messages['written']} written, {messages['stored']} in the store, {messages['lost']} lost, "
        f"{messages['duplicate']} double, {messages['repeats_refused']} repeats refused "
        f"(killed with -9 on the way: {', '.join(report['killed']) or 'nothing'})"
    )
    saving = size["raw"] / size["uplink"] if size["uplink"] else 0.0
    console.print(
        f"bytes: {size['raw']:,} raw, {size['uplink']:,} sent ({saving:.0f} times less); "
        f"models: {size['downlink_model']:,} down, {size['uplink_model']:,} up"
    )
    console.print(f"round: taught by {', '.join(report['round']['teachers'])} (engine {report['engine']})")
    console.print("seconds: " + ", ".join(f"{name} {s:.1f}" for name, s in report["seconds"].items()))
    for part, words in report["embedded"].items():
        console.print(f"embedded {part}: {words}")
    for problem in report["problems"]:
        console.print(Text(f"not as it should be: {problem}", style="bold"))
    console.print("all of it holds" if report["ok"] else "it does not hold")


def _lines(progress: Progress, console: Console, done: threading.Event) -> None:
    last = ("", "")
    while True:
        now = (progress.phase, progress.note)
        if now != last:
            console.print(f"demo: {now[0]}" + (f": {now[1]}" if now[1] else ""), highlight=False)
            last = now
        if done.wait(0.2):
            return


def _table(progress: Progress) -> Group:
    table = Table(box=None, pad_edge=False)
    for column in ("device", "runtime", "fault", "state", "windows", "alarms", "release"):
        table.add_column(column)
    for row in progress.devices[:MOST_ROWS]:
        table.add_row(
            row["id"],
            row.get("runtime", ""),
            row["fault"] or "-",
            row.get("state", ""),
            str(row.get("windows", 0)),
            Text(str(row.get("alarms", 0)), style="bold red" if row.get("alarms") else ""),
            str(row.get("release", 0)),
        )
    more = len(progress.devices) - MOST_ROWS
    head = Text(f"{progress.phase}  {progress.note}", style="bold")
    done = ", ".join(f"{name} {s:.1f} s" for name, s in progress.seconds.items())
    return Group(head, table, Text(f"... and {more} more" if more > 0 else ""), Text(done, style="dim"))
