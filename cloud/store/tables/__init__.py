"""All tables of the store, by what they are for. Definitions only: opening and migration are in schema.py."""

from __future__ import annotations

from cloud.store.tables.base import metadata
from cloud.store.tables.desk import accounts, audit, login_tries, receipts, sessions, settings, verdicts
from cloud.store.tables.learning import desired, learning, releases, rounds
from cloud.store.tables.road import aged_out, alarms, devices, dropped, events, hours, outboxes, summaries
from cloud.store.tables.stream import (
    counters,
    dead_letters,
    deliveries,
    enrichments,
    offsets,
    outgoing,
    routings,
    schema_version,
    stages,
)

__all__ = [
    "accounts",
    "aged_out",
    "alarms",
    "audit",
    "counters",
    "dead_letters",
    "deliveries",
    "desired",
    "devices",
    "dropped",
    "enrichments",
    "events",
    "hours",
    "learning",
    "login_tries",
    "metadata",
    "offsets",
    "outboxes",
    "outgoing",
    "receipts",
    "releases",
    "rounds",
    "routings",
    "schema_version",
    "sessions",
    "settings",
    "stages",
    "summaries",
    "verdicts",
]
