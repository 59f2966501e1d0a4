"""Tables of the road down: releases, what is wanted of devices, steps of the loop, rounds of training."""

from __future__ import annotations

import sqlalchemy as sa

from cloud.store.tables.base import HEX, NAME, ROWID, TEXT, metadata

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("group", NAME, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("digest", HEX, nullable=False),
    sa.Column("target", TEXT, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("note", TEXT, nullable=False),
    sa.Column("wide", sa.Boolean, nullable=False),  # for the whole group, new devices too; not for named ones only
)

desired = sa.Table(
    "desired",
    metadata,
    sa.Column("device", NAME, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("group", NAME, nullable=False),
    sa.Column("release", sa.BigInteger, nullable=False),
    sa.Column("message", sa.LargeBinary, nullable=False),  # bytes of wire.Desired
    sa.Column("created_s", sa.Float, nullable=False),
)

# Steps of the loop; a device's first report of a release is told once.
learning = sa.Table(
    "learning",
    metadata,
    sa.Column("id", ROWID, primary_key=True, autoincrement=True),
    sa.Column("time_s", sa.Float, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("group", NAME, nullable=False),
    sa.Column("device", NAME, nullable=False),
    sa.Column("release", sa.BigInteger, nullable=False),
    sa.Column("digest", HEX, nullable=False),
    sa.Column("detail", TEXT, nullable=False),
    sa.Index("learning_by_device", "device", "kind", "release"),
)

# Lines of training runs as covey.learning brings them: wire.RoundEvent, by (run, seq).
rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("run", sa.String(16), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("time_s", sa.Float, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("round", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),  # JSON of wire.RoundEvent
    sa.Column("changed", sa.BigInteger, nullable=False, server_default="0", index=True),
)
