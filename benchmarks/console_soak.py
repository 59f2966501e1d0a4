"""Does the console stay as it was over hours of load: its memory, the page's memory, its promptness, its streams?

As bench_console.py, whose load, pages and servers it takes: Apache Kafka, the store stage on SQLite, one console, Chromium with one page that
stays open and one that is loaded anew every half minute (so that streams come and go). The fleet stays as it is: alarms are of its own devices, end
a minute later, and are judged. Every `--every` seconds it looks at the resident memory of
console and store stage, the page's heap after a collection, and how long an alarm takes from Kafka to the page. Told are the first tenth's median,
the last tenth's, and the slope between.

What it does not show: days; a real network's broken lines; many browsers.

    .venv/bin/python benchmarks/console_soak.py --minutes 30 --per-s 300 --json
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from bench_console import DEVICES, HEAP, WATCH, Load, rss_bytes, tell, usable_s, window_at  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

import cloud_events as ev  # noqa: E402
import console_rig as rig  # noqa: E402
from console_fleet import FLAGS, lively  # noqa: E402
from covey import topics  # noqa: E402
from processes import wait_for  # noqa: E402
from servers import Kafka  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession, Page

    from processes import Process

RELOAD_S = 30.0
OPEN = 240  # alarms that stand, a minute's
LATELY_S = 10.0  # alarms that a look is about
Look = dict[str, float]
UNITS = {
    "console": "MB resident",
    "store": "MB resident",
    "heap": "MB, the page's",
    "late": "ms, alarm to page",
    "streams": "open",
}


class Steady(Load):
    """A load that leaves as many devices and open alarms as there were."""

    def raise_alarm(self, n: int, now_s: float) -> None:
        """Begin one, whose channel the page shows, and end the one of a minute ago."""
        mark, device = f"lat-{n}-", self._names[n % len(self._names)]
        self.produce(device, 2_000_000 + 2 * n, ev.alarm(mark, window=window_at(now_s), top_channel=mark), now_s)
        self.alarms[mark] = now_s * 1000
        if n >= OPEN:
            old, there = f"lat-{n - OPEN}-", self._names[(n - OPEN) % len(self._names)]
            said = ev.alarm(old, "end", window=window_at(now_s), top_channel=old)
            self.produce(there, 2_000_001 + 2 * (n - OPEN), said, now_s)


def judge_old(console: rig.Console, names: list[str], load: Steady, judged: int) -> int:
    """Confirm what ended lately; returns how many are judged in all."""
    upto = max(judged, len(load.alarms) - 2 * OPEN)
    alarms = [{"device": names[n % len(names)], "alarm_id": f"lat-{n}-"} for n in range(judged, upto)]
    with console.client() as client:
        client.headers["X-CSRF-Token"] = client.get("/api/me").json()["csrf"]
        for at in range(0, len(alarms), 500):
            client.post(
                "/api/verdicts", json={"alarms": alarms[at : at + 500], "verdict": "confirmed"}
            ).raise_for_status()
    return upto


def look(console: rig.Console, stage: Process, page: Page, memory: CDPSession, load: Load) -> Look:
    """One look at everything."""
    memory.send("HeapProfiler.collectGarbage")
    seen = page.evaluate("() => window.seen")
    since_ms = 1000 * (time.time() - LATELY_S)
    late = [seen[mark] - at for mark, at in list(load.alarms.items()) if mark in seen and at >= since_ms]
    with console.client() as client:
        text = client.get("/metrics").text
    streams = re.search(r"^covey_console_streams (\S+)$", text, re.MULTILINE)
    return {
        "console": rss_bytes(console.process.pid) / 1e6,
        "store": rss_bytes(stage.pid) / 1e6,
        "heap": page.evaluate(HEAP) / 1e6,
        "late": statistics.median(late) if late else -1.0,
        "streams": float(streams[1]) if streams else -1.0,
    }


def run(minutes: float, per_s: int, every_s: float) -> tuple[list[Look], int]:
    """The looks, in order, and how many messages were sent."""
    looks: list[Look] = []
    with tempfile.TemporaryDirectory(prefix="covey-soak-") as name, sync_playwright() as play:
        folder = Path(name)
        url, engine = ev.new_store(folder)
        names = lively(engine, DEVICES)
        with Kafka(folder / "kafka") as broker, rig.Console(folder, url, requests_per_s=10_000) as console:
            broker.create_topics(topics.KAFKA_TOPICS, 6)
            stage = ev.cloud_process(
                folder, "run", "run", "--stages", "store", "--kafka", broker.bootstrap, "--store", url
            )
            stage.start(lambda: "reading" in stage.log.read_text(), 60)
            flags = [*FLAGS, "--enable-precise-memory-info"]
            browser = play.chromium.launch(executable_path="/usr/bin/chromium", headless=True, args=flags)
            context = browser.new_context(viewport={"width": 1440, "height": 900}, bypass_csp=True)
            page, other = context.new_page(), browser.new_context().new_page()
            memory = context.new_cdp_session(page)
            usable_s(page, console.base)
            page.evaluate(WATCH)
            load, judged = Steady(broker.bootstrap, names, per_s), 0
            load.start()
            wait_for(lambda: load.sent > 2 * per_s, 30, "the load runs")
            end = time.monotonic() + 60 * minutes
            look_at, reload_at = time.monotonic() + every_s, 0.0
            while time.monotonic() < end:
                if time.monotonic() >= reload_at:
                    usable_s(other, console.base)
                    reload_at = time.monotonic() + RELOAD_S
                page.wait_for_timeout(max(0.0, 1000 * (min(look_at, reload_at, end) - time.monotonic())))
                if time.monotonic() >= look_at:
                    judged = judge_old(console, names, load, judged)
                    looks.append(look(console, stage, page, memory, load))
                    look_at += every_s
                    print({key: round(value, 1) for key, value in looks[-1].items()}, file=sys.stderr, flush=True)
            load.stop.set()
            load.join(30)
            browser.close()
            stage.stop()
        engine.dispose()
    return looks, load.sent


def figures(looks: list[Look], minutes: float, sent: int) -> dict[str, dict[str, Any]]:
    """{figure: {value, unit, goal, met}}: medians of the first and the last tenth of the looks, and megabytes an hour between."""
    tenth = max(1, len(looks) // 10)
    found: dict[str, tuple[float, str, float | None, bool | None]] = {
        "messages": (sent, f"in {minutes:g} minutes", None, None)
    }
    for name, unit in UNITS.items():
        values = [one[name] for one in looks if one[name] >= 0]
        first, last = statistics.median(values[:tenth]), statistics.median(values[-tenth:])
        found[f"{name}_first"] = (round(first, 1), unit, None, None)
        goal = 300.0 if name == "console" else None
        found[f"{name}_last"] = (round(last, 1), unit, goal, None if goal is None else last <= goal)
        if unit.startswith("MB"):
            # From the middle on: before it, what is bounded fills.
            middle = statistics.median(values[len(values) // 2 : len(values) // 2 + tenth])
            found[f"{name}_slope"] = (
                round((last - middle) / (minutes / 120), 2),
                "MB an hour, second half",
                None,
                None,
            )
    return {key: dict(zip(("value", "unit", "goal", "met"), row, strict=True)) for key, row in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--per-s", type=int, default=1000, help="summaries a second")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two looks")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    looks, sent = run(options.minutes, options.per_s, options.every)
    found = figures(looks, options.minutes, sent)
    return tell(found, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
