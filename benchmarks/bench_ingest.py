"""How many summaries a second does the store stage take from Kafka into SQLite and PostgreSQL, at exactly-once effect?

Summaries as agents write them, about 1 kB with sketch, health and position, of 10,000 devices in turn, are put into Apache Kafka first. Then each
candidate drains them alone into a new store, and the candidates take turns, round by round:

stage   `covey cloud run --stages store` as shipped: identities, order, offsets in the transaction, devices, summaries, sums
plain   what a sink without any of that costs: the same consumer, JSON decoded, `INSERT` of the event's row by executemany, offsets in
        the transaction; repeats and order are nobody's business there

Wall time counts from the first stored row to the last (Kafka stands by, on the same two cores); CPU-seconds are the process's own, start
included, and without PostgreSQL's, which are told beside them. A second pass over the same messages shows what repeats cost.

What it does not show: disks slower than this one's (SQLite: WAL, synchronous=FULL; PostgreSQL: fsync on), a network, months of rows.

    .venv/bin/python benchmarks/bench_ingest.py --messages 200000 --rounds 3 --json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import sqlalchemy as sa  # noqa: E402
from confluent_kafka import Consumer, Producer, TopicPartition  # noqa: E402

from cloud.store import reader, schema, tables  # noqa: E402
from covey import topics, wire  # noqa: E402
from covey.sketch import Sketch  # noqa: E402
from servers import Kafka, Postgres  # noqa: E402

PARTITIONS = 6
DEVICES = 10_000
GOALS = {"sqlite": 20_000, "postgres": 10_000}  # summaries a second
READY_S, DRAIN_S = 60.0, 900.0


def summary(device: int, turn: int, now_s: float) -> bytes:
    """One event, as an agent of that device would write it in that turn."""
    sketch = Sketch()
    for n in range(30):
        sketch.add(0.4 + 0.01 * ((device * 7 + turn * 13 + n * 29) % 97))
    data = wire.Summary(
        start_s=now_s + 30 * turn,
        end_s=now_s + 30 * turn + 30,
        windows=30,
        alarmed_windows=0,
        threshold=2.0,
        score=wire.Scores(0.8, 1.2, 1.3, 1.37, sketch.to_wire()),
        drift=wire.Drift(0.2, 1.1, 0.03, 0.4, "acc.z"),
        # No release of ours: the first report of one is told as a step of learning, once a device, and is not what is measured.
        reported=wire.Reported(0, "ab" * 32, "litert", "CPU", "cd" * 32, "a"),
        health=wire.Health(
            90_000_000, 12.5 + turn, 1, 900, 400_000 + turn, 30_000 + turn, temperature_c=41.5, battery_v=3.9
        ),
        flight=f"flight-{turn}",
        position=wire.Position(59.9 + device * 1e-5, 10.7, 120.0),
    )
    identity = wire.Identity(f"cf-{device:05d}", f"{device:016x}", turn + 1)
    return wire.make_event(identity, "summary", now_s + 30 * turn + 30, data)


def fill(broker: Kafka, messages: int) -> float:
    """Put the summaries into Kafka, a turn of all devices after the other; returns their mean size in bytes."""
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 500_000}
    )
    now_s, size = time.time() - 30 * messages / DEVICES, 0
    for n in range(messages):
        device, turn = n % DEVICES, n // DEVICES
        body = summary(device, turn, now_s)
        size += len(body)
        while True:
            try:
                producer.produce(topics.SUMMARIES, body, f"cf-{device:05d}")
                break
            except BufferError:
                producer.poll(0.1)
        if n % 1000 == 0:
            producer.poll(0)
    producer.flush(120)
    return size / messages


def count(url: str, table: sa.Table) -> int:
    """Rows stored; 0 while there is no such table."""
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table(table.name):
                return 0
            return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
    except sa.exc.OperationalError:
        return 0
    finally:
        engine.dispose()


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def drained(command: list[str], at_end: Any, folder: Path, **environment: str) -> tuple[float, float]:
    """Run until `at_end(log)`; (wall seconds that it tells, CPU-seconds)."""
    log = folder / "drain.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=folder, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + DRAIN_S
        while (wall_s := at_end()) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[-1]}: ended or too slow:\n{log.read_text()[-2000:]}")
            time.sleep(0.25)  # each look costs the process under test some of its time
        return wall_s, cpu_s(process.pid)
    finally:
        process.terminate()
        process.wait(60)


class Watch:
    """Wall time from the first message taken to the last, by the stage's own metrics (no query disturbs the store)."""

    def __init__(self, port: int, messages: int) -> None:
        self.port, self.messages, self.first_s = port, messages, 0.0

    def look(self) -> float | None:
        """Wall seconds once all is done, else None."""
        import urllib.request

        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        # Learning steps come back to the store and are counted, too: `told`.
        mine = ('covey_stage_processed_total{result="stored"', 'covey_stage_processed_total{result="repeated"')
        lines = [line for line in text.splitlines() if line.startswith(mine)]
        done = sum(float(line.rsplit(" ", 1)[1]) for line in lines)
        if done and not self.first_s:
            self.first_s, self.before = time.monotonic(), done
        if done < self.messages:
            return None
        took_s = time.monotonic() - self.first_s
        return took_s * self.messages / (self.messages - self.before) if done > self.before else took_s


def plain(bootstrap: str, url: str, messages: int) -> None:
    """The candidate `plain`, as a process of its own; prints its wall seconds."""
    import hashlib

    engine = schema.open_store(url)
    insert = "INSERT INTO events (device, outbox, seq, kind, sha256, time, received_s, body) VALUES "
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "plain", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topics.SUMMARIES, p, 0) for p in range(PARTITIONS)])
    done, began_s = 0, 0.0
    marks = "(?, ?, ?, ?, ?, ?, ?, ?)" if engine.dialect.name == "sqlite" else "(%s, %s, %s, %s, %s, %s, %s, %s)"
    while done < messages:
        batch = consumer.consume(5000, 0.5)
        began_s = began_s or time.monotonic()
        rows = []
        for message in batch:
            body = message.value()
            event = json.loads(body)
            device, outbox, seq = event["id"].split("/")
            sha256 = hashlib.sha256(body).hexdigest()
            rows.append(
                (device, outbox, int(seq), "summary", sha256, event["time"], message.timestamp()[1] / 1000, body)
            )
        if rows:
            with schema.write(engine) as connection:
                connection.exec_driver_sql(insert + marks, rows)
                offsets = {(m.topic(), m.partition()): m.offset() + 1 for m in batch}
                for (topic, partition), offset in offsets.items():
                    connection.execute(
                        schema.insert(connection, tables.offsets)
                        .values(broker="b", topic=topic, partition=partition, next_offset=offset)
                        .on_conflict_do_update(
                            index_elements=["broker", "topic", "partition"], set_={"next_offset": offset}
                        )
                    )
            done += len(rows)
    print(json.dumps({"wall_s": time.monotonic() - began_s}), flush=True)
    time.sleep(3600)  # until its CPU time has been read


def stage(bootstrap: str, url: str, messages: int, folder: Path, group: str) -> tuple[float, float]:
    """One run of the shipped stage."""
    from servers import free_port

    port = free_port()
    code = "from covey.cli import one_line\nfrom cloud.cli import app\nwith one_line():\n    app(standalone_mode=False)"
    command = [sys.executable, "-c", code, "run", "--stages", "store", "--kafka", bootstrap, "--store", url]
    command += ["--health-port", str(port), "--instance", group]
    return drained(command, Watch(port, messages).look, folder, COVEY_CLOUD_CONSUMER_GROUP=group)


def plainly(bootstrap: str, url: str, messages: int, folder: Path) -> tuple[float, float]:
    """One run of the plain sink."""
    log = folder / "drain.log"

    def ended() -> float | None:
        for line in log.read_text().splitlines() if log.exists() else ():
            if line.startswith("{"):
                return float(json.loads(line)["wall_s"])
        return None

    command = [sys.executable, str(Path(__file__).resolve()), "--plain", bootstrap, url, str(messages)]
    return drained(command, ended, folder)


def figures(messages: int, rounds: int, stores: list[str]) -> dict[str, dict[str, Any]]:
    """{figure: {value, unit, goal, met}}: medians over the rounds."""
    out: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="covey-ingest-") as name:
        folder = Path(name)
        with Kafka(folder / "kafka") as broker:
            broker.create_topics(topics.KAFKA_TOPICS, PARTITIONS)
            out["message"] = {"value": round(fill(broker, messages)), "unit": "bytes", "goal": None, "met": None}
            print(f"{messages} summaries in Kafka", file=sys.stderr, flush=True)
            for store in stores:
                _one(out, broker, store, messages, rounds, folder)
    return out


def _one(out: dict[str, dict[str, Any]], broker: Kafka, store: str, messages: int, rounds: int, folder: Path) -> None:
    from contextlib import ExitStack

    took: dict[str, list[tuple[float, float]]] = {"stage": [], "again": [], "plain": []}
    with ExitStack() as stack:
        server = stack.enter_context(Postgres(folder / "pg", config={"fsync": "on"})) if store == "postgres" else None
        for number in range(rounds):
            here = folder / f"{store}-{number}"
            here.mkdir()

            def url(what: str, here: Path = here) -> str:
                return server.database() if server is not None else f"sqlite:///{here / what}.db"

            mine, other = url("stage"), url("plain")
            took["stage"].append(stage(broker.bootstrap, mine, messages, here, f"g{store}{number}"))
            check(mine, messages)
            forget_offsets(mine)
            took["again"].append(stage(broker.bootstrap, mine, messages, here, f"a{store}{number}"))
            check(mine, messages)
            took["plain"].append(plainly(broker.bootstrap, other, messages, here))
            told = {name: [f"{wall:.1f}/{cpu:.1f}" for wall, cpu in times] for name, times in took.items()}
            print(f"{store} {number + 1}/{rounds} wall/CPU s: {told}", file=sys.stderr, flush=True)
            for file in here.glob("*.db*"):
                file.unlink()
    for name, times in took.items():
        rate = statistics.median(messages / wall for wall, _ in times)
        cost = statistics.median(100_000 * cpu / messages for _, cpu in times)
        goal = GOALS[store] if name == "stage" else None
        met = None if goal is None else rate >= goal
        out[f"{store}_{name}_rate"] = {"value": round(rate), "unit": "summaries/s", "goal": goal, "met": met}
        out[f"{store}_{name}_cpu"] = {"value": round(cost, 2), "unit": "CPU-s per 100,000", "goal": None, "met": None}


def check(url: str, messages: int) -> None:
    """Exactly once: as many events and summaries as were sent, no device too many, nothing missing."""
    engine = schema.open_store(url, create=False)
    try:
        counts = reader.counts(engine)
    finally:
        engine.dispose()
    told = {name: counts[name] for name in ("events", "summaries", "devices", "missing", "conflicts", "undecodable")}
    wanted = {"events": messages, "summaries": messages, "devices": min(DEVICES, messages)}
    wanted |= {"missing": 0, "conflicts": 0, "undecodable": 0}
    if told != wanted:
        raise SystemExit(f"{url}: {wanted} expected, {told} found")


def forget_offsets(url: str) -> None:
    """Have the next run read everything again."""
    engine = schema.open_store(url, create=False)
    with schema.write(engine) as connection:
        connection.execute(sa.delete(tables.offsets))
    engine.dispose()


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plain", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        bootstrap, url, messages = options.plain
        plain(bootstrap, url, int(messages))
        return 0
    found = figures(options.messages, options.rounds, [options.only] if options.only else ["sqlite", "postgres"])
    if options.json:
        print(json.dumps(found))
    else:
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, SQLAlchemy {version('SQLAlchemy')}"
        )
        for name, figure in found.items():
            goal = "" if figure["goal"] is None else f"goal {figure['goal']}  {'met' if figure['met'] else 'MISSED'}"
            print(f"{name:<24} {figure['value']:>12} {figure['unit']:<20} {goal}")
    return 0 if all(figure["met"] is not False for figure in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
