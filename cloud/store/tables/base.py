"""What all tables share: one MetaData and the widths of columns."""

from __future__ import annotations

import sqlalchemy as sa

# Names of constraints, so that a migration can name what it drops on any dialect.
metadata = sa.MetaData(
    naming_convention={
        "ix": "%(table_name)s_by_%(column_0_N_name)s",
        "uq": "%(table_name)s_one_%(column_0_N_name)s",
    }
)

NAME = sa.String(64)
HEX = sa.String(64)
OUTBOX = sa.String(16)
TEXT = sa.String(256)
# SQLite's own integers are 64 bits under the name INTEGER only where they number rows.
ROWID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
