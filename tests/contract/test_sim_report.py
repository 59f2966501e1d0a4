"""Ledger and store: what a simulated fleet wrote goes through the cloud's own writer and export, and the report finds all of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import sqlalchemy as sa

from cloud.store import schema, tables
from cloud.store.writer import Received, write_batch
from cloud_events import alarm, cloud_command, new_store, summary
from covey import topics, wire
from firmware_sim.truth.ledger import Device, Flight, Ledger, Truth
from firmware_sim.truth.stored import Line

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
T0 = 1_800_000_000.0
SIM = (
    "import typer\nfrom covey.cli import one_line\nfrom firmware_sim import report_cli\n"
    "app = typer.Typer()\napp.callback()(lambda: None)\nreport_cli.register(app)\n"
    "with one_line():\n    raise SystemExit(app(standalone_mode=False))"
)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def written(ledger: Ledger) -> list[Received]:
    """Events of three devices; the first has a fault at 30 s and says so at 33 s."""
    fault = Truth("propeller-cut", "fault", T0 + 30, None, {"motor": 2, "cut_mm": 3.0})
    devices = [
        Device(f"sim-{n}", "quadrotor", "lte", 0.0, [fault] if n == 0 else [], [Flight(T0, T0 + 60)]) for n in range(3)
    ]
    ledger.register(devices)
    for second in range(0, 60, 5):
        for i in range(3):
            at_s = T0 + second + i
            ledger.put(i, "summary", at_s, lambda one, at_s=at_s: wire.make_event(one, "summary", at_s, summary(1)))
    for state, at_s in (("begin", T0 + 33), ("end", T0 + 59)):
        data = alarm("sim-0-1", state, window=wire.WindowRef(at_s - 2, at_s - 1, "cd" * 32))
        ledger.put(0, "alarm", at_s, lambda one, at_s=at_s, data=data: wire.make_event(one, "alarm", at_s, data))
    ledger.commit()
    events = []
    for i in range(3):
        for row in ledger.batch(i, 0, 1000):
            event, identity = wire.decode_event(row.body)
            data = wire.decode_data(event)
            events.append(Received(identity, event, data, row.body, T0 + 100, topics.SUMMARIES))
    return events


def test_what_the_writer_stored_is_what_the_ledger_wrote_until_a_row_goes(tmp_path: Path) -> None:
    url, engine = new_store(tmp_path)
    path, out = tmp_path / "fleet.ledger", tmp_path / "events.jsonl"
    with Ledger.create(path, {"scenario": "contract", "seed": 1, "start_epoch_s": T0}) as ledger:
        events = written(ledger)
        # Twice, newest first: the store sorts it out.
        write_batch(engine, "b", {(topics.SUMMARIES, 0): 1}, events[::-1])
        write_batch(engine, "b", {(topics.SUMMARIES, 0): 2}, events)
        for i in range(3):
            ledger.acknowledge(i, ledger.outbox(i), [(1, ledger.last_seq(i))], T0 + 101)
        gone = wire.Identity("sim-1", ledger.outbox(1), 7)

    def verdict() -> subprocess.CompletedProcess[str]:
        exported = run(cloud_command("export", "--store", url, "--out", str(out)))
        assert exported.returncode == 0, exported.stderr
        return run([sys.executable, "-c", SIM, "report", "--ledger", str(path), "--events", str(out)])

    told = verdict()
    assert told.returncode == 0, told.stderr + told.stdout
    assert re.search(r"^written +38\n(.*\n)*stored +38\n", told.stdout, re.MULTILINE)
    assert re.search(r"^propeller-cut +fault +1 +1 +1 +0 +0 +1 +1 +0 +3 ", told.stdout, re.MULTILINE)
    assert told.stdout.endswith("verdict: clean\n")

    with schema.write(engine) as connection:
        table = tables.events
        connection.execute(sa.delete(table).where(table.c.device == gone.device, table.c.seq == gone.seq))
    told = verdict()
    assert told.returncode == 1
    assert f"acknowledged missing: {gone}\n" in told.stdout


def test_the_example_of_an_export_line_is_one_that_the_report_reads() -> None:
    (example,) = re.findall(r"```jsonl export\n(.*?)\n```", PAGE.read_text(encoding="utf-8"))
    line = msgspec.json.decode(example, type=Line)
    assert (line.seq, line.kind, line.received_s) == (41, "alarm", 1795420810.0)
    assert msgspec.json.decode(msgspec.json.encode(line)) == msgspec.json.decode(example)
