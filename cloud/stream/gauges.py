"""What a stage tells about itself: Prometheus metrics, and its row in `stages` for people."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cloud.store import schema, tables
from cloud.stream import lag
from covey.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.engine import Engine

    from cloud.stream.kafka import Place

_log = logging.getLogger("cloud.gauges")

OTHERS_S = 30.0  # another instance's row is of now for so long
FORGET_S = 86_400.0  # a row that nobody has written for so long is deleted
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """All metrics of `covey cloud run`, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        of, ahead = ("stage",), f"{lag.AHEAD_S:g} s"
        self.lag = Gauge("covey_stage_lag_messages", "Messages that this instance is behind", of, registry=registry)
        self.expected = Gauge(
            "covey_stage_expected_lag_messages", f"Messages it will be behind in {ahead}", of, registry=registry
        )
        self.wanted = Gauge(
            "covey_stage_consumers_wanted", "Instances that the whole stage's expected lag needs", of, registry=registry
        )
        self.partitions = Gauge("covey_stage_partitions", "Partitions that this instance has", of, registry=registry)
        self.unread = Gauge("covey_stage_unread_partitions", "Partitions that no instance has", of, registry=registry)
        self.processed = Counter("covey_stage_processed", "Messages processed", (*of, "result"), registry=registry)
        self.seconds = Histogram(
            "covey_stage_batch_seconds", "From a batch's receipt to its commit", of, buckets=SECONDS, registry=registry
        )
        self.model_failures = Counter(
            "covey_enrich_model_failures", "Alarms that went on without the model's opinion", registry=registry
        )
        self.files_refused = Counter(
            "covey_files_refused",
            "Changed files that were refused: what was read before holds",
            ("file",),
            registry=registry,
        )
        self.deliveries = Counter(
            "covey_delivery_tries", "Tries to tell a webhook or mailbox", ("target", "result"), registry=registry
        )
        self.delivery_seconds = Histogram(
            "covey_delivery_seconds", "One try", ("target",), buckets=SECONDS, registry=registry
        )
        self.delivery_waiting = Gauge("covey_delivery_waiting", "Deliveries that wait", registry=registry)

    def refused(self, file: str) -> Callable[[], None]:
        """Counts files that are refused; `file`: rules | model."""
        return partial(self.files_refused.labels(file).inc)


class StageGauge:
    """One stage's instance."""

    def __init__(self, metrics: Metrics, engine: Engine, stage: str, instance: str, drain_s: float) -> None:
        self._metrics, self._engine, self._stage, self._instance = metrics, engine, stage, instance
        self._drain_s = drain_s
        self._history = lag.History()
        self._processed = 0
        self._busy_s = 0.0

    def done(self, results: Mapping[str, int], seconds: float) -> None:
        """A batch was processed."""
        for word, count in results.items():
            self._processed += count
            self._metrics.processed.labels(self._stage, word).inc(count)
        self._busy_s += seconds
        self._metrics.seconds.labels(self._stage).observe(seconds)

    def look(self, behind: int, ends: int, places: Sequence[Place], unread: int, detail: str) -> None:
        """Tell where it is; a store that does not take the row now gets the next one."""
        sample = lag.Sample(time.monotonic(), ends, self._processed, self._busy_s)
        found = self._history.add(sample, tuple(places))
        metrics, stage = self._metrics, self._stage
        metrics.lag.labels(stage).set(behind)
        metrics.expected.labels(stage).set(lag.expected(behind, found))
        metrics.partitions.labels(stage).set(len(places))
        metrics.unread.labels(stage).set(unread)
        row = {"partitions": len(places), "lag": behind, "rate": found.processed, "detail": detail[:256]}
        try:
            wanted = self._write(row, found, places)
        except StoreError as error:
            _log.info("%s: its row is not written: %s", stage, error)
            wanted = self._wanted(found, behind, 0.0, 0, len(places))
        metrics.wanted.labels(stage).set(wanted)

    def _wanted(self, found: lag.Rates, behind: int, rate: float, more: int, partitions: int) -> int:
        return lag.wanted(lag.arriving(found) + rate, behind + more, found.capacity, self._drain_s, partitions)

    def _write(self, row: dict[str, object], found: lag.Rates, places: Sequence[Place]) -> int:
        table, now = tables.stages, time.time()
        mine = sa.and_(table.c.stage == self._stage, table.c.instance == self._instance)
        with schema.write(self._engine) as connection:
            others = connection.execute(
                sa.select(table).where(table.c.stage == self._stage, table.c.seen_s > now - OTHERS_S, sa.not_(mine))
            ).all()
            # More consumers than partitions of the topic with most would stand idle.
            by_topic: dict[str, int] = {}
            for topic, _ in places:
                by_topic[topic] = by_topic.get(topic, 0) + 1
            most = max(by_topic.values(), default=0) + sum(one.partitions for one in others)
            behind, rate = sum(one.lag for one in others), sum(one.rate for one in others)
            wanted = self._wanted(found, int(str(row["lag"])), rate, behind, most)
            values = {**row, "seen_s": now, "wanted": wanted}
            statement = schema.insert(connection, table).values(stage=self._stage, instance=self._instance, **values)
            connection.execute(statement.on_conflict_do_update(index_elements=["stage", "instance"], set_=values))
            connection.execute(sa.delete(table).where(table.c.seen_s < now - FORGET_S))
        return wanted
