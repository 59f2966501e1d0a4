"""Tables of the operators' side: accounts, sessions, tries to log in, verdicts, the audit log, receipts of erasure, settings."""

from __future__ import annotations

import sqlalchemy as sa

from cloud.store.tables.base import HEX, NAME, ROWID, TEXT, metadata

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("role", sa.String(8), nullable=False),  # viewer | operator | admin
    sa.Column("password_hash", TEXT, nullable=False, server_default=""),  # argon2id; "": logs in by OIDC only
    sa.Column("subject", TEXT, nullable=False, server_default=""),  # "<issuer> <sub>" of an OIDC login; "": none yet
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_s", sa.Float, nullable=False),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("token_sha256", HEX, primary_key=True),  # the token itself is only in the browser's cookie
    sa.Column("name", NAME, nullable=False),
    sa.Column("csrf", HEX, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("seen_s", sa.Float, nullable=False),
    sa.Column("expires_s", sa.Float, nullable=False),
)

# Token buckets of who tries to log in, one for all consoles; those that are full again are deleted.
login_tries = sa.Table(
    "login_tries",
    metadata,
    sa.Column("key", TEXT, primary_key=True),  # "name <what was given>" or "address <network>"
    sa.Column("tokens", sa.Float, nullable=False),  # tries left at that moment
    sa.Column("at_s", sa.Float, nullable=False),
    sa.Index("login_tries_by_at", "at_s"),
)

verdicts = sa.Table(
    "verdicts",
    metadata,
    sa.Column("id", ROWID, primary_key=True, autoincrement=True),
    sa.Column("device", NAME, nullable=False),
    sa.Column("alarm_id", TEXT, nullable=False),
    sa.Column("verdict", sa.String(12), nullable=False),  # acknowledged | confirmed | rejected | undone
    sa.Column("by", NAME, nullable=False),
    sa.Column("time_s", sa.Float, nullable=False),
    sa.Column("note", TEXT, nullable=False, server_default=""),
    sa.Index("verdicts_by_alarm", "device", "alarm_id"),
)

# Who did what; never changed, never deleted by retention.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", ROWID, primary_key=True, autoincrement=True),
    sa.Column("time_s", sa.Float, nullable=False),
    sa.Column("actor", NAME, nullable=False),  # account, or "cli:<user>", or "-" where nobody is logged in
    sa.Column("action", sa.String(32), nullable=False),  # login, login_failed, verdict, move, forget, ...
    sa.Column("target", TEXT, nullable=False),
    sa.Column("detail", TEXT, nullable=False, server_default=""),
    sa.Column("address", NAME, nullable=False, server_default=""),
)

# What was erased of a device, and when: the device is named by its hash only.
receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("id", ROWID, primary_key=True, autoincrement=True),
    sa.Column("device_sha256", HEX, nullable=False),
    sa.Column("time_s", sa.Float, nullable=False),
    sa.Column("by", NAME, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # JSON: rows erased per table, what is left elsewhere and how long
)

# What one of the cloud's processes tells the others, `base_url` for one.
settings = sa.Table(
    "settings",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
