"""Hours: what is left of a device's summaries once they are deleted. Pure but for `put`.

An hour's sketch is the sum of its summaries' sketches, so its quantiles are those of all its scores, within the sketch's 1 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from cloud.store import schema, tables
from covey.errors import WireError
from covey.sketch import Sketch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Connection

    from covey import wire

HOUR_S = 3600
_GREATEST = ("max", "drift_input", "drift_score")
_SUMS = ("summaries", "windows", "alarmed_windows")


def hour_of(end_s: float) -> int:
    """Start of the hour in which a period ends, a multiple of 3600."""
    return int(end_s // HOUR_S) * HOUR_S


def row_of(device: str, summary: wire.Summary) -> dict[str, Any]:
    """One summary as the row of an hour that holds nothing else; a sketch that is none counts no score."""
    try:
        sketch = Sketch.from_wire(summary.score.sketch)
    except WireError:
        sketch = Sketch()
    return {
        "device": device,
        "hour_s": hour_of(summary.end_s),
        "summaries": 1,
        "windows": summary.windows,
        "alarmed_windows": summary.alarmed_windows,
        "threshold": summary.threshold,
        "p50": summary.score.p50,
        "p99": summary.score.p99,
        "max": summary.score.max,
        "drift_input": summary.drift.input,
        "drift_score": summary.drift.score,
        "release": summary.reported.release,
        "sketch": msgspec.json.encode(sketch.to_wire()).decode(),
    }


def merged(first: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Two rows of one device's hour as one: sums, greatest, and the later one's threshold and release."""
    sketch = _sketch(first)
    sketch.merge(_sketch(later))
    row = {**later, "sketch": msgspec.json.encode(sketch.to_wire()).decode()}
    row |= {name: first[name] + later[name] for name in _SUMS} | {
        name: max(first[name], later[name]) for name in _GREATEST
    }
    if sketch.count:
        row |= {"p50": sketch.quantile(0.5), "p99": sketch.quantile(0.99)}
    return row


def put(connection: Connection, summaries: Iterable[tuple[str, wire.Summary]]) -> None:
    """Add summaries to the hours there are; in order of each device's events."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for device, summary in summaries:
        row = row_of(device, summary)
        key = device, row["hour_s"]
        found[key] = merged(found[key], row) if key in found else row
    table = tables.hours
    for (device, hour_s), row in sorted(found.items()):
        query = sa.select(table).where(table.c.device == device, table.c.hour_s == hour_s)
        there = connection.execute(query).mappings().first()
        whole = row if there is None else merged(dict(there), row)
        statement = schema.insert(connection, table).values(whole)
        connection.execute(statement.on_conflict_do_update(index_elements=["device", "hour_s"], set_=whole))


def _sketch(row: dict[str, Any]) -> Sketch:
    return Sketch.from_wire(msgspec.json.decode(row["sketch"], type=list[list[int]]))
