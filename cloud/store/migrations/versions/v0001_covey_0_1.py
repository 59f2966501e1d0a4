"""The tables of covey 0.1, which called them version 1."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NAME = sa.String(64)
HEX = sa.String(64)
TEXT = sa.String(256)
ROWID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make them."""
    op.create_table("schema_version", sa.Column("version", sa.Integer, nullable=False))
    op.create_table(
        "events",
        sa.Column("device", NAME, primary_key=True),
        sa.Column("outbox", sa.String(16), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("sha256", HEX, nullable=False),
        sa.Column("time", sa.String(40), nullable=False),
        sa.Column("received_s", sa.Float, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "outboxes",
        sa.Column("device", NAME, primary_key=True),
        sa.Column("outbox", sa.String(16), primary_key=True),
        sa.Column("ordinal", sa.Integer, nullable=False),
    )
    op.create_table(
        "dropped",
        sa.Column("device", NAME, primary_key=True),
        sa.Column("outbox", sa.String(16), primary_key=True),
        sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("last", sa.BigInteger, primary_key=True, autoincrement=False),
    )
    op.create_table(
        "devices",
        sa.Column("device", NAME, primary_key=True),
        sa.Column("group", NAME, nullable=False),
        sa.Column("first_seen_s", sa.Float),
        sa.Column("last_seen_s", sa.Float),
        sa.Column("online", sa.Boolean),
        sa.Column("session", sa.String(16), nullable=False),
        sa.Column("reported_ordinal", sa.Integer, nullable=False),
        sa.Column("reported_seq", sa.BigInteger, nullable=False),
        sa.Column("reported", sa.Text, nullable=False),
        sa.Column("release", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("health_ordinal", sa.Integer, nullable=False),
        sa.Column("health_seq", sa.BigInteger, nullable=False),
        sa.Column("health", sa.Text, nullable=False),
        sa.Column("position", sa.Text, nullable=False),
    )
    op.create_table(
        "summaries",
        sa.Column("device", NAME, primary_key=True),
        sa.Column("outbox", sa.String(16), primary_key=True),
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
    )
    op.create_table(
        "alarms",
        sa.Column("device", NAME, primary_key=True),
        sa.Column("alarm_id", TEXT, primary_key=True),
        sa.Column("outbox", sa.String(16), nullable=False),
        sa.Column("begin_seq", sa.BigInteger),
        sa.Column("end_seq", sa.BigInteger),
        sa.Column("begin_s", sa.Float),
        sa.Column("end_s", sa.Float),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("peak_score", sa.Float, nullable=False),
        sa.Column("threshold", sa.Float, nullable=False),
        sa.Column("confidence", sa.Float, nullable=False),
        sa.Column("top_channel", TEXT, nullable=False),
        sa.Column("attribution", sa.Text, nullable=False),
        sa.Column("windows", sa.BigInteger, nullable=False),
        sa.Column("window_sha256", HEX, nullable=False),
        sa.Column("release", sa.BigInteger, nullable=False),
        sa.Column("digest", HEX, nullable=False),
        sa.Column("calibration", HEX, nullable=False),
        sa.Column("runtime", TEXT, nullable=False),
        sa.Column("flight", TEXT, nullable=False),
        sa.Column("trace_id", sa.String(32), nullable=False),
    )
    op.create_table(
        "releases",
        sa.Column("group", NAME, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("digest", HEX, nullable=False),
        sa.Column("target", TEXT, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("note", TEXT, nullable=False),
        sa.Column("wide", sa.Boolean, nullable=False),
    )
    op.create_table(
        "desired",
        sa.Column("device", NAME, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("group", NAME, nullable=False),
        sa.Column("release", sa.BigInteger, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
    )
    op.create_table(
        "learning",
        sa.Column("id", ROWID, primary_key=True, autoincrement=True),
        sa.Column("time_s", sa.Float, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("group", NAME, nullable=False),
        sa.Column("device", NAME, nullable=False),
        sa.Column("release", sa.BigInteger, nullable=False),
        sa.Column("digest", HEX, nullable=False),
        sa.Column("detail", TEXT, nullable=False),
    )
    op.create_index("learning_by_device", "learning", ["device", "kind", "release"])
    op.create_table(
        "outgoing",
        sa.Column("id", ROWID, primary_key=True, autoincrement=True),
        sa.Column("topic", sa.String(249), nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "offsets",
        sa.Column("broker", sa.String(128), primary_key=True),
        sa.Column("topic", sa.String(249), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "counters",
        sa.Column("name", NAME, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "settings",
        sa.Column("name", NAME, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.execute("INSERT INTO schema_version (version) VALUES (1)")
