"""Produces what transactions have decided to say: dead letters, learning steps, desired releases.

A row leaves the store when Kafka has it, so a killed process says it again rather than never: at least once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import sqlalchemy as sa

from cloud.store import schema, tables

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from cloud.stream.kafka import Writer

MAX_IN_FLIGHT = 500


class Publisher:
    """Empties the store's table of outgoing messages, oldest first."""

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self._engine = engine
        self._writer = writer
        self._in_flight: set[int] = set()
        self._delivered: list[int] = []

    def step(self) -> int:
        """Hand over what waits and forget what was delivered; returns how many messages still wait.

        Raises:
            StoreError: the store is out of reach; nothing is lost by trying again.
        """
        self._writer.poll()
        done, table = list(self._delivered), tables.outgoing
        if done:
            with schema.write(self._engine) as connection:
                connection.execute(sa.delete(table).where(table.c.id.in_(done)))
            del self._delivered[: len(done)]
        query = sa.select(table).order_by(table.c.id).limit(MAX_IN_FLIGHT + len(self._in_flight))
        with schema.read(self._engine) as connection:
            rows = connection.execute(query).all()
            waiting = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        known = self._in_flight | set(self._delivered)
        for row in rows:
            if row.id not in known and not self._hand_over(row.id, row.topic, row.key, row.value):
                break
        return int(waiting)

    def drain(self, timeout_s: float) -> bool:
        """Publish everything; False when the time is up first."""
        deadline = time.monotonic() + timeout_s
        while self.step():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._writer.flush(min(left, 0.1))
        return True

    def _hand_over(self, row: int, topic: str, key: str, value: bytes) -> bool:
        def told(delivered: bool) -> None:
            self._in_flight.discard(row)
            if delivered:
                self._delivered.append(row)

        # An empty value stands for a tombstone: no message of ours is empty, and the column cannot hold nothing.
        if not self._writer.produce(topic, key, value or None, told):
            return False
        self._in_flight.add(row)
        return True
