"""Tables of the stream's stages: offsets, messages to produce, what enrich and route made of alarms, deliveries, lag."""

from __future__ import annotations

import sqlalchemy as sa

from cloud.store.tables.base import NAME, OUTBOX, ROWID, TEXT, metadata

# Messages that a transaction decided on: written with it, produced after it, deleted on the delivery report.
outgoing = sa.Table(
    "outgoing",
    metadata,
    sa.Column("id", ROWID, primary_key=True, autoincrement=True),
    sa.Column("topic", sa.String(249), nullable=False),
    sa.Column("key", TEXT, nullable=False),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sqlite_autoincrement=True,  # an id is never used again, so a late delivery report deletes nothing else
)

offsets = sa.Table(
    "offsets",
    metadata,
    sa.Column("broker", sa.String(128), primary_key=True),
    sa.Column("topic", sa.String(249), primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
)

# What enrich said of an alarm's event; the alarm itself may arrive later.
enrichments = sa.Table(
    "enrichments",
    metadata,
    sa.Column("device", NAME, primary_key=True),
    sa.Column("outbox", OUTBOX, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("alarm_id", TEXT, nullable=False),
    sa.Column("context", sa.Text, nullable=False),  # JSON of wire.Context
    sa.Column("enriched_s", sa.Float, nullable=False),
)

# Where route sent an alarm's event.
routings = sa.Table(
    "routings",
    metadata,
    sa.Column("device", NAME, primary_key=True),
    sa.Column("outbox", OUTBOX, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("alarm_id", TEXT, nullable=False),
    sa.Column("level", sa.String(8), nullable=False),  # high | low
    sa.Column("rule", NAME, nullable=False),
    sa.Column("routed_s", sa.Float, nullable=False),
)

# A message to a webhook or a mailbox, told once by (event, target), tried until it is taken or given up.
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("device", NAME, primary_key=True),
    sa.Column("outbox", OUTBOX, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("target", NAME, primary_key=True),  # name of a webhook or mailbox in the rules
    sa.Column("alarm_id", TEXT, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),  # waiting | delivered | failed
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_s", sa.Float, nullable=False),  # when it is tried again
    sa.Column("made_s", sa.Float, nullable=False),
    sa.Column("done_s", sa.Float),
    sa.Column("error", TEXT, nullable=False, server_default=""),
    sa.Column("body", sa.LargeBinary, nullable=False),  # the routed event's bytes
    sa.Index("deliveries_by_state_next_s", "state", "next_s"),
)

# Last state of each running stage, written by itself every few seconds.
stages = sa.Table(
    "stages",
    metadata,
    sa.Column("stage", NAME, primary_key=True),
    sa.Column("instance", NAME, primary_key=True),  # host:pid of the process
    sa.Column("seen_s", sa.Float, nullable=False),
    sa.Column("partitions", sa.Integer, nullable=False),
    sa.Column("lag", sa.BigInteger, nullable=False),  # messages behind
    sa.Column("rate", sa.Float, nullable=False),  # messages a second, of late
    sa.Column("wanted", sa.Integer, nullable=False),  # consumers that the expected lag asks for
    sa.Column("detail", TEXT, nullable=False, server_default=""),
)

# Newest dead letters, for people; Kafka's topic is the record.
dead_letters = sa.Table(
    "dead_letters",
    metadata,
    sa.Column("broker", sa.String(128), primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("reason", TEXT, nullable=False),
    sa.Column("detail", sa.String(1024), nullable=False),
    sa.Column("topic", sa.String(1024), nullable=False),
    sa.Column("received_s", sa.Float, nullable=False, index=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
)

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

# covey 0.1 looks here, and refuses a number above 1; what counts is Alembic's table (cloud/store/migrations).
schema_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, nullable=False))
