"""The operators' side: what the stream's stages say, verdicts, accounts, retention, and change numbers for live views.

Devices and alarms take what their events already say; lines of training runs come from Kafka again by themselves.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import op

if TYPE_CHECKING:
    from collections.abc import Iterator

revision = "0002"
down_revision = "0001"

NAME = sa.String(64)
HEX = sa.String(64)
OUTBOX = sa.String(16)
TEXT = sa.String(256)
ROWID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STEP = 100  # devices at once


def upgrade() -> None:
    """Add columns and tables, then fill what is known."""
    _columns()
    _tables()
    _count(op.get_bind())
    _fill_devices(op.get_bind())
    _fill_alarms(op.get_bind())
    # covey 0.1 looks only here: it refuses what it would write wrongly. Since then Alembic's own table counts.
    op.execute("UPDATE schema_version SET version = 2")


def _columns() -> None:
    for table, names in (
        ("outboxes", ("newest", "stored", "alarms", "statuses")),
        ("devices", ("windows", "alarmed_windows")),
    ):
        for name in names:
            op.add_column(table, sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    for column in (
        sa.Column("labels", sa.Text, nullable=False, server_default="{}"),
        sa.Column("state", sa.String(8), nullable=False, server_default="active"),
        sa.Column("period_end_s", sa.Float),
        sa.Column("period_s", sa.Float),
        sa.Column("score_p50", sa.Float),
        sa.Column("score_max", sa.Float),
        sa.Column("threshold", sa.Float),
        sa.Column("drift_psi", sa.Float),
        sa.Column("drift_channel", TEXT, nullable=False, server_default=""),
        sa.Column("changed", sa.BigInteger, nullable=False, server_default="0"),
    ):
        op.add_column("devices", column)
    op.create_index("devices_by_changed", "devices", ["changed"])
    for column in (
        sa.Column("received_s", sa.Float, nullable=False, server_default="0"),
        sa.Column("kind", sa.String(8), nullable=False, server_default="anomaly"),
        sa.Column("detail", TEXT, nullable=False, server_default=""),
        sa.Column("acknowledged_s", sa.Float),
        sa.Column("acknowledged_by", NAME, nullable=False, server_default=""),
        sa.Column("verdict", sa.String(10), nullable=False, server_default=""),
        sa.Column("verdict_s", sa.Float),
        sa.Column("verdict_by", NAME, nullable=False, server_default=""),
        sa.Column("changed", sa.BigInteger, nullable=False, server_default="0"),
    ):
        op.add_column("alarms", column)
    for name in ("changed", "begin_s", "received_s"):
        op.create_index(f"alarms_by_{name}", "alarms", [name])
    for name, table, columns, where in (
        ("alarms_open", "alarms", ["device"], "state = 'begin'"),
        ("summaries_by_flight", "summaries", ["device", "flight"], "flight <> ''"),
    ):
        op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _tables() -> None:
    op.create_table(
        "aged_out",
        sa.Column("device", NAME, primary_key=True),
        sa.Column("outbox", OUTBOX, primary_key=True),
        sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("last", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "hours",
        sa.Column("device", NAME, primary_key=True),
        sa.Column("hour_s", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("summaries", sa.BigInteger, nullable=False),
        sa.Column("windows", sa.BigInteger, nullable=False),
        sa.Column("alarmed_windows", sa.BigInteger, nullable=False),
        sa.Column("threshold", sa.Float, nullable=False),
        sa.Column("p50", sa.Float, nullable=False),
        sa.Column("p99", sa.Float, nullable=False),
        sa.Column("max", sa.Float, nullable=False),
        sa.Column("drift_input", sa.Float, nullable=False),
        sa.Column("drift_score", sa.Float, nullable=False),
        sa.Column("release", sa.BigInteger, nullable=False),
        sa.Column("sketch", sa.Text, nullable=False),
    )
    op.create_table(
        "rounds",
        sa.Column("run", sa.String(16), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("time_s", sa.Float, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("round", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("rounds_by_changed", "rounds", ["changed"])
    op.create_table(
        "enrichments",
        sa.Column("device", NAME, primary_key=True),
        sa.Column("outbox", OUTBOX, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("alarm_id", TEXT, nullable=False),
        sa.Column("context", sa.Text, nullable=False),
        sa.Column("enriched_s", sa.Float, nullable=False),
    )
    op.create_table(
        "routings",
        sa.Column("device", NAME, primary_key=True),
        sa.Column("outbox", OUTBOX, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("alarm_id", TEXT, nullable=False),
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("rule", NAME, nullable=False),
        sa.Column("routed_s", sa.Float, nullable=False),
    )
    op.create_table(
        "deliveries",
        sa.Column("device", NAME, primary_key=True),
        sa.Column("outbox", OUTBOX, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("target", NAME, primary_key=True),
        sa.Column("alarm_id", TEXT, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_s", sa.Float, nullable=False),
        sa.Column("made_s", sa.Float, nullable=False),
        sa.Column("done_s", sa.Float),
        sa.Column("error", TEXT, nullable=False, server_default=""),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("deliveries_by_state_next_s", "deliveries", ["state", "next_s"])
    op.create_table(
        "stages",
        sa.Column("stage", NAME, primary_key=True),
        sa.Column("instance", NAME, primary_key=True),
        sa.Column("seen_s", sa.Float, nullable=False),
        sa.Column("partitions", sa.Integer, nullable=False),
        sa.Column("lag", sa.BigInteger, nullable=False),
        sa.Column("rate", sa.Float, nullable=False),
        sa.Column("wanted", sa.Integer, nullable=False),
        sa.Column("detail", TEXT, nullable=False, server_default=""),
    )
    op.create_table(
        "dead_letters",
        sa.Column("broker", sa.String(128), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("detail", sa.String(1024), nullable=False),
        sa.Column("topic", sa.String(1024), nullable=False),
        sa.Column("received_s", sa.Float, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
    )
    op.create_index("dead_letters_by_received_s", "dead_letters", ["received_s"])
    op.create_table(
        "accounts",
        sa.Column("name", NAME, primary_key=True),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("password_hash", TEXT, nullable=False, server_default=""),
        sa.Column("subject", TEXT, nullable=False, server_default=""),
        sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("created_s", sa.Float, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("token_sha256", HEX, primary_key=True),
        sa.Column("name", NAME, nullable=False),
        sa.Column("csrf", HEX, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("seen_s", sa.Float, nullable=False),
        sa.Column("expires_s", sa.Float, nullable=False),
    )
    op.create_table(
        "login_tries",
        sa.Column("key", TEXT, primary_key=True),
        sa.Column("tokens", sa.Float, nullable=False),
        sa.Column("at_s", sa.Float, nullable=False),
    )
    op.create_index("login_tries_by_at", "login_tries", ["at_s"])
    op.create_table(
        "verdicts",
        sa.Column("id", ROWID, primary_key=True, autoincrement=True),
        sa.Column("device", NAME, nullable=False),
        sa.Column("alarm_id", TEXT, nullable=False),
        sa.Column("verdict", sa.String(12), nullable=False),
        sa.Column("by", NAME, nullable=False),
        sa.Column("time_s", sa.Float, nullable=False),
        sa.Column("note", TEXT, nullable=False, server_default=""),
    )
    op.create_index("verdicts_by_alarm", "verdicts", ["device", "alarm_id"])
    op.create_table(
        "audit",
        sa.Column("id", ROWID, primary_key=True, autoincrement=True),
        sa.Column("time_s", sa.Float, nullable=False),
        sa.Column("actor", NAME, nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("target", TEXT, nullable=False),
        sa.Column("detail", TEXT, nullable=False, server_default=""),
        sa.Column("address", NAME, nullable=False, server_default=""),
    )
    op.create_table(
        "receipts",
        sa.Column("id", ROWID, primary_key=True, autoincrement=True),
        sa.Column("device_sha256", HEX, nullable=False),
        sa.Column("time_s", sa.Float, nullable=False),
        sa.Column("by", NAME, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )


def _count(connection: sa.Connection) -> None:
    """What each outbox and each device has brought so far."""
    query = sa.text(
        "SELECT device, outbox, max(seq), count(*), sum(CASE WHEN kind = 'alarm' THEN 1 ELSE 0 END), "
        "sum(CASE WHEN kind = 'status' THEN 1 ELSE 0 END) FROM events GROUP BY device, outbox"
    )
    names = ("of", "outbox", "newest", "stored", "alarms", "statuses")
    change = sa.text(
        "UPDATE outboxes SET newest = :newest, stored = :stored, alarms = :alarms, statuses = :statuses "
        "WHERE device = :of AND outbox = :outbox"
    )
    rows = [dict(zip(names, row, strict=True)) for row in connection.execute(query)]
    if rows:
        connection.execute(change, rows)
    query = sa.text("SELECT device, sum(windows), sum(alarmed_windows) FROM summaries GROUP BY device")
    change = sa.text("UPDATE devices SET windows = :windows, alarmed_windows = :alarmed_windows WHERE device = :of")
    rows = [{"of": device, "windows": n, "alarmed_windows": bad} for device, n, bad in connection.execute(query)]
    if rows:
        connection.execute(change, rows)


def _fill_devices(connection: sa.Connection) -> None:
    """Figures of each device's newest summary, from its event."""
    query = sa.text(
        "SELECT d.device, e.body FROM devices AS d "
        "JOIN outboxes AS o ON o.device = d.device AND o.ordinal = d.health_ordinal "
        "JOIN events AS e ON e.device = d.device AND e.outbox = o.outbox AND e.seq = d.health_seq "
        "WHERE d.health_ordinal > 0 AND d.device IN :names"
    ).bindparams(sa.bindparam("names", expanding=True))
    change = sa.text(
        "UPDATE devices SET period_end_s = :end_s, period_s = :period_s, score_p50 = :p50, score_max = :max, "
        "threshold = :threshold, drift_psi = :psi, drift_channel = :channel WHERE device = :of"
    )
    for rows in _parts(connection, query):
        values = []
        for device, body in rows:
            data = json.loads(bytes(body))["data"]
            values.append(
                {
                    "of": device,
                    "end_s": data["end_s"],
                    "period_s": data["end_s"] - data["start_s"],
                    "p50": data["score"]["p50"],
                    "max": data["score"]["max"],
                    "threshold": data["threshold"],
                    "psi": data["drift"].get("psi", 0.0),
                    "channel": data["drift"].get("channel", ""),
                }
            )
        connection.execute(change, values)


def _fill_alarms(connection: sa.Connection) -> None:
    """When an alarm was heard of first, and of what kind it is, from its events."""
    query = sa.text(
        "SELECT a.device, a.alarm_id, e.received_s, e.body FROM alarms AS a "
        "JOIN events AS e ON e.device = a.device AND e.outbox = a.outbox AND e.seq = coalesce(a.begin_seq, a.end_seq) "
        "WHERE a.device IN :names"
    ).bindparams(sa.bindparam("names", expanding=True))
    change = sa.text(
        "UPDATE alarms SET received_s = :received_s, kind = :kind, detail = :detail "
        "WHERE device = :of AND alarm_id = :alarm_id"
    )
    for rows in _parts(connection, query):
        values = []
        for device, alarm_id, received_s, body in rows:
            data = json.loads(bytes(body))["data"]
            kind, detail = data.get("kind", "anomaly"), data.get("detail", "")
            values.append(
                {"of": device, "alarm_id": alarm_id, "received_s": received_s, "kind": kind, "detail": detail}
            )
        connection.execute(change, values)


def _parts(connection: sa.Connection, query: sa.TextClause) -> Iterator[Any]:
    """The query's rows, those of some devices at a time: bodies of a whole fleet are too many for memory."""
    names = list(connection.execute(sa.text("SELECT device FROM devices ORDER BY device")).scalars())
    for start in range(0, len(names), STEP):
        rows = connection.execute(query, {"names": names[start : start + STEP]}).all()
        if rows:
            yield rows
