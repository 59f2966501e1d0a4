"""How fast do waiting deliveries go out? One webhook on loopback, by HTTP and by HTTPS, from SQLite.

A storm of alarms is written down as `route` does; `deliver` is run until all are taken. The receiver runs in a thread of this process, so
its time is part of the figures. Told: deliveries a second by the wall clock, and CPU milliseconds for each, receiver included.

    .venv/bin/python benchmarks/bench_deliver.py --alarms 2000 --json
"""

from __future__ import annotations

import argparse
import json
import ssl
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]  # the imports below are found by it, so they come after it (E402)

import cloud_events as ev  # noqa: E402
from certificates import certificate  # noqa: E402
from cloud.stream.deliver import Deliver  # noqa: E402
from cloud.stream.gauges import Metrics  # noqa: E402
from cloud.stream.kafka import Record  # noqa: E402
from cloud.stream.route import RouteStage  # noqa: E402
from cloud.stream.rules_file import parse  # noqa: E402
from covey import topics, wire  # noqa: E402
from covey.wire_alarms import Context, Enriched, make_enriched  # noqa: E402
from processes import free_port  # noqa: E402


class Receiver(BaseHTTPRequestHandler):
    """Takes everything; connections may stay open."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    taken: set[str]

    def do_POST(self) -> None:
        """One message."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.add(self.headers["webhook-id"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Quiet."""


def run(folder: Path, alarms: int, scheme: str) -> dict[str, float]:
    """Deliveries a second, and CPU-ms each."""
    folder.mkdir()
    taken: set[str] = set()
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), type("Mine", (Receiver,), {"taken": taken}))
    cert, key = certificate(folder)
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"{scheme}://127.0.0.1:{server.server_address[1]}/"
    ca = f'ca_file = "{cert}"\n' if scheme == "https" else ""
    rules = parse(
        f'[[rules]]\nname = "all"\nlevel = "high"\nwebhooks = ["hook"]\n[[webhooks]]\nname = "hook"\nurl = "{url}"\n{ca}',
        "rules",
    )
    _, engine = ev.new_store(folder)
    now = time.time()
    records = []
    for seq in range(1, alarms + 1):
        data = Enriched(ev.alarm(f"a{seq}"), "t", now, Context(group="g"), now)
        content = make_enriched(wire.Identity(f"d{seq % 50}", ev.OUTBOX, seq), data)
        records.append(Record(topics.ALARMS_ENRICHED, 0, seq, f"d{seq % 50}", content, now))
    RouteStage(lambda: rules, engine).process("b", records)
    stop = threading.Event()
    thread = threading.Thread(target=Deliver(lambda: rules, engine, Metrics(), stop).run)
    began, cpu = time.perf_counter(), time.process_time()
    thread.start()
    while len(taken) < alarms and time.perf_counter() - began < 600:
        time.sleep(0.02)
    wall, spent = time.perf_counter() - began, time.process_time() - cpu
    stop.set()
    thread.join(60)
    server.shutdown()
    server.server_close()
    engine.dispose()
    return {"per_s": round(len(taken) / wall, 1), "cpu_ms_each": round(1000 * spent / max(1, len(taken)), 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--alarms", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"http": [], "https": []}
    with tempfile.TemporaryDirectory(prefix="covey-deliver-") as folder:
        for number in range(options.rounds):
            for scheme, runs in found.items():
                runs.append(run(Path(folder) / f"{scheme}{number}", options.alarms, scheme))
    best = {scheme: max(runs, key=lambda one: one["per_s"]) for scheme, runs in found.items()}
    if options.json:
        print(json.dumps({"best": best, "rounds": found}))
    else:
        for scheme, one in best.items():
            print(f"{scheme:<6} {one['per_s']:>8.1f} deliveries/s  {one['cpu_ms_each']:>6.2f} CPU-ms each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
