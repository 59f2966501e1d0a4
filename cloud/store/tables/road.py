"""Tables of the road up: events as devices wrote them, and what they say of devices, periods and alarms.

`changed` is the change number of the transaction that wrote a row last (docs/decisions/0031-live-views.md).
"""

from __future__ import annotations

import sqlalchemy as sa

from cloud.store.tables.base import HEX, NAME, OUTBOX, TEXT, metadata

events = sa.Table(
    "events",
    metadata,
    sa.Column("device", NAME, primary_key=True),
    sa.Column("outbox", OUTBOX, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("sha256", HEX, nullable=False),  # of the bytes as the device wrote them
    sa.Column("time", sa.String(40), nullable=False),  # device clock, RFC 3339
    sa.Column("received_s", sa.Float, nullable=False),  # Kafka's timestamp
    sa.Column("body", sa.LargeBinary, nullable=False),
)

# A device begins a new outbox when its file is lost; the one seen last is the newest (ordinal counts from 1).
outboxes = sa.Table(
    "outboxes",
    metadata,
    sa.Column("device", NAME, primary_key=True),
    sa.Column("outbox", OUTBOX, primary_key=True),
    sa.Column("ordinal", sa.Integer, nullable=False),
    # Of all events ever stored, those that retention has deleted too: totals need not read the events.
    sa.Column("newest", sa.BigInteger, nullable=False, server_default="0"),  # greatest seq
    sa.Column("stored", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("alarms", sa.BigInteger, nullable=False, server_default="0"),  # of them
    sa.Column("statuses", sa.BigInteger, nullable=False, server_default="0"),  # of them
)

# What an outbox says it gave up for want of room.
dropped = sa.Table(
    "dropped",
    metadata,
    sa.Column("device", NAME, primary_key=True),
    sa.Column("outbox", OUTBOX, primary_key=True),
    sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last", sa.BigInteger, primary_key=True, autoincrement=False),
)

# Identities whose events retention has deleted: they are still repeats, not news. Merged, so a row a gap at most.
aged_out = sa.Table(
    "aged_out",
    metadata,
    sa.Column("device", NAME, primary_key=True),
    sa.Column("outbox", OUTBOX, primary_key=True),
    sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last", sa.BigInteger, nullable=False),
)

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("device", NAME, primary_key=True),
    sa.Column("group", NAME, nullable=False),
    sa.Column("labels", sa.Text, nullable=False, server_default="{}"),  # JSON object of texts, an operator's
    sa.Column("state", sa.String(8), nullable=False, server_default="active"),  # active | retired
    sa.Column("first_seen_s", sa.Float),  # None: named by an operator, never heard
    sa.Column("last_seen_s", sa.Float),
    sa.Column("online", sa.Boolean),  # None: no presence yet
    sa.Column("session", OUTBOX, nullable=False, default=""),
    # Order of what is reported: (ordinal of the outbox, seq); never arrival.
    sa.Column("reported_ordinal", sa.Integer, nullable=False, default=0),
    sa.Column("reported_seq", sa.BigInteger, nullable=False, default=0),
    sa.Column("reported", sa.Text, nullable=False, default=""),  # JSON of wire.Reported
    sa.Column("release", sa.BigInteger, nullable=False, default=0),
    sa.Column("revision", sa.BigInteger, nullable=False, default=0),  # of the desired it acted on last
    sa.Column("health_ordinal", sa.Integer, nullable=False, default=0),
    sa.Column("health_seq", sa.BigInteger, nullable=False, default=0),
    sa.Column("health", sa.Text, nullable=False, default=""),  # JSON of wire.Health
    sa.Column("position", sa.Text, nullable=False, default=""),  # JSON of wire.Position
    # Of all summaries ever stored.
    sa.Column("windows", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("alarmed_windows", sa.BigInteger, nullable=False, server_default="0"),
    # Of the newest summary (by health_ordinal, health_seq), for views that cannot read a row of it each.
    sa.Column("period_end_s", sa.Float),  # None: no summary yet
    sa.Column("period_s", sa.Float),
    sa.Column("score_p50", sa.Float),
    sa.Column("score_max", sa.Float),
    sa.Column("threshold", sa.Float),
    sa.Column("drift_psi", sa.Float),
    sa.Column("drift_channel", TEXT, nullable=False, server_default=""),
    sa.Column("changed", sa.BigInteger, nullable=False, server_default="0", index=True),
)

summaries = sa.Table(
    "summaries",
    metadata,
    sa.Column("device", NAME, primary_key=True),
    sa.Column("outbox", OUTBOX, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("start_s", sa.Float, nullable=False),
    sa.Column("end_s", sa.Float, nullable=False),
    sa.Column("windows", sa.BigInteger, nullable=False),
    sa.Column("alarmed_windows", sa.BigInteger, nullable=False),
    sa.Column("threshold", sa.Float, nullable=False),
    sa.Column("p50", sa.Float, nullable=False),
    sa.Column("p99", sa.Float, nullable=False),
    sa.Column("max", sa.Float, nullable=False),
    sa.Column("drift_input", sa.Float, nullable=False),
    sa.Column("drift_score", sa.Float, nullable=False),
    sa.Column("release", sa.BigInteger, nullable=False),
    sa.Column("runtime", TEXT, nullable=False),
    sa.Column("flight", TEXT, nullable=False),
    sa.Index(
        "summaries_by_flight",
        "device",
        "flight",
        sqlite_where=sa.text("flight <> ''"),
        postgresql_where=sa.text("flight <> ''"),
    ),
)

# What is left of summaries after retention: an hour of a device a row, device clock.
hours = sa.Table(
    "hours",
    metadata,
    sa.Column("device", NAME, primary_key=True),
    sa.Column("hour_s", sa.BigInteger, primary_key=True, autoincrement=False),  # start, a multiple of 3600
    sa.Column("summaries", sa.BigInteger, nullable=False),
    sa.Column("windows", sa.BigInteger, nullable=False),
    sa.Column("alarmed_windows", sa.BigInteger, nullable=False),
    sa.Column("threshold", sa.Float, nullable=False),  # of the last one
    sa.Column("p50", sa.Float, nullable=False),
    sa.Column("p99", sa.Float, nullable=False),
    sa.Column("max", sa.Float, nullable=False),
    sa.Column("drift_input", sa.Float, nullable=False),  # greatest
    sa.Column("drift_score", sa.Float, nullable=False),  # greatest
    sa.Column("release", sa.BigInteger, nullable=False),  # of the last one
    sa.Column("sketch", sa.Text, nullable=False),  # JSON, merged: covey/sketch.py
)

alarms = sa.Table(
    "alarms",
    metadata,
    # The device too: one device cannot write into another's alarm.
    sa.Column("device", NAME, primary_key=True),
    sa.Column("alarm_id", TEXT, primary_key=True),
    sa.Column("outbox", OUTBOX, nullable=False),
    sa.Column("begin_seq", sa.BigInteger),  # event that began it; None while only its end has arrived
    sa.Column("end_seq", sa.BigInteger),
    sa.Column("begin_s", sa.Float),  # device clock: start of the window that raised it
    sa.Column("end_s", sa.Float),  # end of its last anomalous window
    sa.Column("received_s", sa.Float, nullable=False, server_default="0"),  # Kafka's timestamp of what was heard first
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("kind", sa.String(8), nullable=False, server_default="anomaly"),
    sa.Column("detail", TEXT, nullable=False, server_default=""),
    sa.Column("score", sa.Float, nullable=False),  # of the window that raised it
    sa.Column("peak_score", sa.Float, nullable=False),
    sa.Column("threshold", sa.Float, nullable=False),
    sa.Column("confidence", sa.Float, nullable=False),
    sa.Column("top_channel", TEXT, nullable=False),
    sa.Column("attribution", sa.Text, nullable=False),  # JSON list of wire.Share
    sa.Column("windows", sa.BigInteger, nullable=False),
    sa.Column("window_sha256", HEX, nullable=False),
    sa.Column("release", sa.BigInteger, nullable=False),
    sa.Column("digest", HEX, nullable=False),
    sa.Column("calibration", HEX, nullable=False),
    sa.Column("runtime", TEXT, nullable=False),
    sa.Column("flight", TEXT, nullable=False),
    sa.Column("trace_id", sa.String(32), nullable=False),
    # What operators said of it last; the whole history is in `verdicts`.
    sa.Column("acknowledged_s", sa.Float),
    sa.Column("acknowledged_by", NAME, nullable=False, server_default=""),
    sa.Column("verdict", sa.String(10), nullable=False, server_default=""),  # "" | confirmed | rejected
    sa.Column("verdict_s", sa.Float),
    sa.Column("verdict_by", NAME, nullable=False, server_default=""),
    sa.Column("changed", sa.BigInteger, nullable=False, server_default="0", index=True),
    sa.Index(
        "alarms_open", "device", sqlite_where=sa.text("state = 'begin'"), postgresql_where=sa.text("state = 'begin'")
    ),
    sa.Index("alarms_by_begin_s", "begin_s"),
    sa.Index("alarms_by_received_s", "received_s"),
)
