"""Stages in processes of their own on one Apache Kafka, a webhook that counts, a load of alarms, and kills: what became of each alarm.

Judged at each place where a repeat or a loss can be seen: rows of the store, committed messages of covey.alarms.enriched and of
covey.alarms.high and .low, rows of deliveries, and what the webhook was sent.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import httpx
import sqlalchemy as sa
from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from cloud.store import schema, tables
from cloud_events import OUTBOX, alarm, body, cloud_process, summary
from covey import topics
from covey.wire_alarms import decode_enriched, decode_routed
from processes import free_port, wait_for

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from pathlib import Path

    from typing_extensions import Self

    from processes import Process
    from servers import Kafka

STAGES = ("store", "enrich", "route", "deliver")
PARTITIONS = 3
DEVICES = 12
OTHER_OUTBOX = "ffeeddccbbaa9988"  # of summaries: each of the two counts without gaps
RULES = """
[[rules]]
name = "all"
level = "high"
webhooks = ["hook"]
ends = true

[[webhooks]]
name = "hook"
url = "http://127.0.0.1:{port}/"
timeout_s = 1
"""


class Hook:
    """A webhook on loopback; counts each webhook-id."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.bodies: dict[str, set[bytes]] = {}
        seen, bodies = self.seen, self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                name = self.headers["webhook-id"]
                seen[name] += 1
                bodies.setdefault(name, set()).add(content)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Stages:
    """The processes. Use in `with`.

    Args:
        folder: for their logs, the repository and an SQLite store.
        broker: with its topics made.
        store: URL; a new SQLite store by default.
        processes: name -> stages that it runs; each stage in one of its own by default.
    """

    def __init__(
        self, folder: Path, broker: Kafka, store: str = "", processes: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.broker = folder, broker
        folder.mkdir(parents=True, exist_ok=True)
        self.store = store or f"sqlite:///{folder / 'store.db'}"
        self.plan = processes or {stage: stage for stage in STAGES}
        self.hook = Hook()
        self.rules = folder / "rules.toml"
        self.rules.write_text(RULES.format(port=self.hook.port))
        self.processes: dict[str, Process] = {}
        self.ports: dict[str, int] = {}  # of health and metrics
        self.more: list[Process] = []
        self.runs = 0
        self.produced: set[str] = set()  # alarms
        self.summaries: set[str] = set()
        self.lock = threading.Lock()
        self._producing = threading.Event()
        self._load: threading.Thread | None = None

    def __enter__(self) -> Self:
        try:
            for name in self.plan:
                self.start(name)
                self.ready(name)
        except BaseException:
            self.__exit__()
            raise
        self.engine = schema.open_store(self.store, create=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._producing.clear()
        if self._load is not None:
            self._load.join(10)
        for process in (*self.processes.values(), *self.more):
            process.stop()
        self.hook.close()
        if hasattr(self, "engine"):
            self.engine.dispose()

    def start(self, name: str) -> None:
        self.ports[name] = free_port()
        self.processes[name] = self._started(self.plan[name], self.ports[name])

    def add(self, stage: str) -> Process:
        """A second instance, once it has partitions."""
        process = self._started(stage, 0)
        self.more.append(process)
        try:
            wait_for(lambda: re.search(r": reading [1-9]", process.log.read_text()), 60, f"{stage} shares")
        except AssertionError as error:
            raise AssertionError(f"{error}: {process.tail(2000)}") from None
        return process

    def _started(self, stages: str, port: int) -> Process:
        self.runs += 1
        options = ["--kafka", self.broker.bootstrap, "--store", self.store, "--stages", stages]
        options += ["--repository-dir", str(self.folder / "repo"), "--rules", str(self.rules)]
        options += ["--health-port", str(port)]
        return cloud_process(self.folder, f"{stages}-{self.runs}".replace(",", "-"), "run", *options).start()

    def ready(self, name: str) -> None:
        """Wait until each of its stages has partitions."""
        process, url = self.processes[name], f"http://127.0.0.1:{self.ports[name]}/readyz"

        def reads() -> bool:
            assert process.alive, process.tail()
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(url, timeout=2).status_code == 200
            return False

        wait_for(reads, 40, f"{name} reads")

    def processed(self, name: str) -> dict[str, float]:
        """Stage -> messages that a process has done since its start; `deliver`: what its webhook took."""
        text = httpx.get(f"http://127.0.0.1:{self.ports[name]}/metrics", timeout=5).text
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "covey_stage_processed_total":
                    stage = sample.labels["stage"]
                    found[stage] = found.get(stage, 0.0) + sample.value
                elif sample.name == "covey_delivery_tries_total" and sample.labels["result"] == "taken":
                    found["deliver"] = found.get("deliver", 0.0) + sample.value
        return found

    def load(self, per_s: float, *, summaries: bool = False) -> None:
        """Alarms, begun and ended in turn, until `finish`; with summaries, one after each, of the next device."""
        self._producing.set()
        self._load = threading.Thread(target=self._produce, args=(per_s, summaries), daemon=True)
        self._load.start()

    def _produce(self, per_s: float, summaries: bool) -> None:
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "enable.idempotence": True, "linger.ms": 5})
        n, began = 0, time.monotonic()
        while self._producing.is_set():
            while n < (time.monotonic() - began) * per_s:
                device, seq = f"d{n % DEVICES}", n // DEVICES + 1
                data = alarm(f"a{(seq + 1) // 2}", "begin" if seq % 2 else "end")
                producer.produce(topics.ALARMS, body(seq, data, device=device), device)
                with self.lock:
                    self.produced.add(f"{device}/{OUTBOX}/{seq}")
                n += 1
                if summaries:
                    device = f"d{n % DEVICES}"
                    content = body(seq, summary(seq), device=device, outbox=OTHER_OUTBOX)
                    producer.produce(topics.SUMMARIES, content, device)
                    with self.lock:
                        self.summaries.add(f"{device}/{OTHER_OUTBOX}/{seq}")
            producer.poll(0.01)
        assert producer.flush(30) == 0

    def kill(self, name: str, rng: random.Random) -> None:
        """Kill it at some moment under load, and have it again."""
        time.sleep(rng.uniform(0.05, 0.6))  # the moment of a kill is what is tried, nothing waits for it
        self.processes[name].kill9()
        self.start(name)
        self.ready(name)

    def finish(self, timeout_s: float) -> dict[str, int]:
        """End the load, wait until all is through or the time is up, and count."""
        self._producing.clear()
        if self._load is not None:
            self._load.join(30)
        with contextlib.suppress(AssertionError):
            wait_for(self._through, timeout_s, "all is through")
        return self.verdict()

    def _through(self) -> bool:
        def count(table: sa.Table, *which: sa.ColumnElement[bool]) -> int:
            return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(*which)).scalar_one())

        with schema.read(self.engine) as connection:
            return (
                count(tables.events) >= len(self.produced) + len(self.summaries)
                and min(count(tables.enrichments), count(tables.routings)) >= len(self.produced)
                and count(tables.deliveries, tables.deliveries.c.state == "delivered") >= len(self.produced)
            )

    def verdict(self) -> dict[str, int]:
        """Lost and repeated at each place; all 0 but `webhook_repeated`, which counts repeats under the same id."""
        want = self.produced
        found: dict[str, int] = {"produced": len(want)}
        with schema.read(self.engine) as connection:
            for table in (tables.events, tables.enrichments, tables.routings, tables.deliveries):
                rows = connection.execute(sa.select(table.c.device, table.c.outbox, table.c.seq))
                names = ["{}/{}/{}".format(*row) for row in rows]
                found |= _judge(table.name, names, want | self.summaries if table is tables.events else want)
            query = sa.select(sa.func.count()).where(tables.deliveries.c.state != "delivered")
            found["deliveries_open"] = int(connection.execute(query).scalar_one())
            # What devices' rows have counted: a repeat that was stored would show here, too.
            windows = connection.execute(sa.select(sa.func.sum(tables.devices.c.windows))).scalar_one()
            found["windows_wrong"] = int(windows or 0) - 10 * len(self.summaries)
        enriched = [str(decode_enriched(value)[0]) for value in read_all(self.broker, [topics.ALARMS_ENRICHED])]
        routed = [
            str(decode_routed(value)[0]) for value in read_all(self.broker, [topics.ALARMS_HIGH, topics.ALARMS_LOW])
        ]
        letters = read_all(self.broker, [topics.DEADLETTER])
        found |= _judge("enriched", enriched, want) | _judge("routed", routed, want)
        found["dead_letters"] = len(letters)
        found["webhook_lost"] = len(want - set(self.hook.seen))
        found["webhook_unknown"] = len(set(self.hook.seen) - want)
        found["webhook_repeated"] = sum(self.hook.seen.values()) - len(self.hook.seen)
        found["webhook_changed"] = sum(len(bodies) > 1 for bodies in self.hook.bodies.values())
        return found


def _judge(place: str, names: list[str], want: set[str]) -> dict[str, int]:
    return {f"{place}_lost": len(want - set(names)), f"{place}_repeated": len(names) - len(set(names))}


def wrong(verdict: dict[str, int]) -> dict[str, int]:
    """What is not as it should be: nothing lost and nothing repeated, but webhooks under the same id."""
    return {name: n for name, n in verdict.items() if n and name not in ("produced", "webhook_repeated")}


def read_all(broker: Kafka, names: list[str]) -> list[bytes]:
    """Every committed message of topics, up to their ends."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "judge",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    left = {(name, p) for name in names for p in range(PARTITIONS)}
    consumer.assign([TopicPartition(name, p, 0) for name, p in left])
    found: list[bytes] = []
    deadline = time.monotonic() + 60
    try:
        while left and time.monotonic() < deadline:
            for message in consumer.consume(1000, 0.2):
                if message.error() is None:
                    found.append(message.value() or b"")
                else:
                    left.discard((message.topic() or "", message.partition() or 0))
    finally:
        consumer.close()
    assert not left, f"ends not reached: {left}"
    return found
