"""How soon is the console usable with 10,000 devices, does it stay smooth under 1,000 updates a second, and how late is an alarm?

Everything is real: Apache Kafka, `covey cloud run --stages store` on SQLite, `covey cloud console`, headless Chromium (Debian's), on this machine.
The fleet is put into the store by the store's own writer; then summaries of devices in turn are produced to Kafka, 1,000 a second.

cold, warm   from asking for the page to the last of 10,000 cells drawn: a new browser context, and a reload in it
frames       pictures a second that Chromium draws meanwhile (requestAnimationFrame), and the longest gap between two
alarm        from producing an alarm's event to its device in the list of the page, seen by an observer in the page
heap, wire   of the page, by its own counters; resident memory of the console's process

What it does not show: a network between; a browser on another machine (here it shares two cores with all the rest); several browsers.

    .venv/bin/python benchmarks/bench_console.py --seconds 20 --json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from confluent_kafka import Producer  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

import cloud_events as ev  # noqa: E402
import console_rig as rig  # noqa: E402
from console_fleet import FLAGS, lively  # noqa: E402
from covey import topics, wire  # noqa: E402
from processes import wait_for  # noqa: E402
from servers import Kafka  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page

DEVICES, PER_S, ALARM_EVERY_S = 10_000, 1_000, 0.25
USABLE = "() => { const c = document.querySelector('canvas'); return c && c.hive && c.hive.drawn >= 10000 }"
WATCH = """() => {
  window.seen = {};
  new MutationObserver(() => {
    for (const found of document.body.textContent.matchAll(/lat-\\d+-/g)) window.seen[found[0]] ??= Date.now();
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
FRAMES = """(ms) => new Promise((done) => {
  const begin = performance.now();
  let last = begin, frames = 0, longest = 0;
  const turn = (now) => {
    frames += 1; longest = Math.max(longest, now - last); last = now;
    if (now - begin < ms) requestAnimationFrame(turn); else done({ fps: frames * 1000 / (now - begin), longest });
  };
  requestAnimationFrame(turn);
})"""
WIRE = "() => performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation')).reduce((n, e) => n + e.transferSize, 0)"
HEAP = "() => performance.memory.usedJSHeapSize"


class Load(threading.Thread):
    """So many summaries a second and now and then an alarm, into Kafka."""

    def __init__(self, bootstrap: str, names: list[str], per_s: int = PER_S) -> None:
        super().__init__(daemon=True)
        self._per_s = per_s
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
        self._names = names
        self.stop = threading.Event()
        self.alarms: dict[str, float] = {}
        self.sent = 0

    def run(self) -> None:
        """Until stopped; a tenth of a second's messages at a time."""
        began, alarm_at = time.monotonic(), time.monotonic() + 2.0
        while not self.stop.is_set():
            due = int((time.monotonic() - began) * self._per_s) - self.sent
            for _ in range(due):
                name, now_s = self._names[self.sent % len(self._names)], time.time()
                data = ev.summary(2 + self.sent // len(self._names), start_s=now_s - 30, end_s=now_s)
                identity = wire.Identity(name, ev.OUTBOX, 100 + self.sent // len(self._names))
                self._producer.produce(topics.SUMMARIES, wire.make_event(identity, "summary", now_s, data), name)
                self.sent += 1
            if time.monotonic() >= alarm_at:
                alarm_at += ALARM_EVERY_S
                self.raise_alarm(len(self.alarms), time.time())
            self._producer.poll(0)
            self.stop.wait(0.02)
        self._producer.flush(10)

    def raise_alarm(self, n: int, now_s: float) -> None:
        """The n-th alarm: of a new device, whose name the page shows."""
        mark = f"lat-{n}-"
        self.produce(mark, 1, ev.alarm(f"{mark}a", window=window_at(now_s), top_channel=f"c{n}"), now_s)
        self.alarms[mark] = now_s * 1000

    def produce(self, device: str, seq: int, said: wire.Alarm, now_s: float) -> None:
        """One alarm's event."""
        body = wire.make_event(wire.Identity(device, ev.OUTBOX, seq), "alarm", now_s, said)
        self._producer.produce(topics.ALARMS, body, device)


def window_at(now_s: float) -> wire.WindowRef:
    """The second before."""
    return wire.WindowRef(now_s - 1, now_s, "cd" * 32)


def usable_s(page: Page, url: str) -> float:
    """Seconds from asking for the page to the last cell."""
    began = time.monotonic()
    page.goto(url, wait_until="commit")
    page.wait_for_function(USABLE, timeout=60_000)
    return time.monotonic() - began


def figures(seconds: float) -> dict[str, dict[str, Any]]:
    """{figure: {value, unit, goal, met}}."""
    found: dict[str, tuple[float, str, float | None, bool | None]] = {}
    with tempfile.TemporaryDirectory(prefix="covey-console-") as name, sync_playwright() as play:
        folder = Path(name)
        url, engine = ev.new_store(folder)
        names = lively(engine, DEVICES)
        with Kafka(folder / "kafka") as broker, rig.Console(folder, url, requests_per_s=10_000) as console:
            broker.create_topics(topics.KAFKA_TOPICS, 6)
            run = ev.cloud_process(
                folder, "run", "run", "--stages", "store", "--kafka", broker.bootstrap, "--store", url
            )
            run.start(lambda: "reading" in run.log.read_text(), 60)
            browser = play.chromium.launch(
                executable_path="/usr/bin/chromium", headless=True, args=[*FLAGS, "--enable-precise-memory-info"]
            )
            context = browser.new_context(viewport={"width": 1440, "height": 900}, bypass_csp=True)
            page = context.new_page()
            cold = usable_s(page, console.base)
            wired = page.evaluate(WIRE)
            warm = statistics.median(usable_s(page, console.base) for _ in range(3))
            load = Load(broker.bootstrap, names)
            page.evaluate(WATCH)
            load.start()
            wait_for(lambda: load.sent > 2 * PER_S, 30, "the load runs")
            smooth = page.evaluate(FRAMES, seconds * 1000)
            load.stop.set()
            load.join(30)
            wait_for(
                lambda: set(page.evaluate("() => Object.keys(window.seen)")) >= set(load.alarms),
                60,
                "every alarm on the page",
            )
            seen = page.evaluate("() => window.seen")
            heap = page.evaluate(HEAP)
            rss = rss_bytes(console.process.pid)
            browser.close()
            run.stop()
        engine.dispose()
    late = sorted(seen[mark] - at for mark, at in load.alarms.items())
    p99 = late[min(len(late) - 1, int(0.99 * len(late)))]
    found["cold"] = (round(cold, 2), "s", 1.5, cold <= 1.5)
    found["warm"] = (round(warm, 2), "s", 1.5, warm <= 1.5)
    found["wire"] = (round(wired / 1e6, 2), "MB, cold", None, None)
    found["heap"] = (round(heap / 1e6, 1), "MB", None, None)
    found["frames"] = (round(smooth["fps"], 1), "a second", 50, smooth["fps"] >= 50)
    found["longest_gap"] = (round(smooth["longest"]), "ms between two frames", None, None)
    found["messages"] = (round(load.sent / (seconds + 2)), "a second, about", None, None)
    found["alarm_p50"] = (round(statistics.median(late)), f"ms, {len(late)} alarms", None, None)
    found["alarm_p99"] = (round(p99), "ms", 500, p99 <= 500)
    found["console_rss"] = (round(rss / 1e6), "MB", 300, rss <= 300e6)
    return {key: dict(zip(("value", "unit", "goal", "met"), row, strict=True)) for key, row in found.items()}


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tell(found: dict[str, dict[str, Any]], *, as_json: bool) -> int:
    """Print the figures; the exit code: 1 where a goal is missed."""
    if as_json:
        print(json.dumps(found))
    else:
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        for name, row in found.items():
            goal = "" if row["goal"] is None else f"goal {row['goal']:g}  {'met' if row['met'] else 'MISSED'}"
            print(f"{name:<14} {row['value']:>10g} {row['unit']:<24} {goal}")
    return 0 if all(row["met"] is not False for row in found.values()) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of load")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = figures(options.seconds)
    return tell(found, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
