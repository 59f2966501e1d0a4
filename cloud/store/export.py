"""Any table and time range as JSON lines or Parquet: streamed, and written whole or not at all.

Parquet keeps types; in JSON, bytes are base64. Who may log in, sessions and settings are never exported.
"""

from __future__ import annotations

import base64
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import sqlalchemy as sa

from cloud.store import schema, tables
from covey.errors import DataError, MissingExtra, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

Format = Literal["jsonl", "parquet"]
CHUNK_ROWS = 20_000  # of a Parquet row group, and held at once

# Table -> the column that a time range is about; None: it has none.
TIMES: dict[str, str | None] = {
    "events": "received_s",
    "summaries": "end_s",
    "hours": "hour_s",
    "alarms": "begin_s",
    "enrichments": "enriched_s",
    "routings": "routed_s",
    "deliveries": "made_s",
    "verdicts": "time_s",
    "audit": "time_s",
    "receipts": "time_s",
    "learning": "time_s",
    "rounds": "time_s",
    "releases": "created_s",
    "desired": "created_s",
    "dead_letters": "received_s",
    "devices": None,
    "outboxes": None,
    "dropped": None,
    "aged_out": None,
    "stages": None,
}


def export(
    engine: Engine, table: str, out: Path, form: Format, from_s: float | None = None, to_s: float | None = None
) -> int:
    """Write a table's rows, ordered by its key.

    Args:
        engine: an open store.
        table: one of TIMES.
        out: file; what was there is replaced when everything is written.
        form: jsonl or parquet.
        from_s: of the table's time, seconds since the epoch; None: from the first.
        to_s: before it.

    Returns:
        How many rows.

    Raises:
        UsageError: no such table, or a range of one that has no time.
        DataError: the file cannot be written.
        MissingExtra: Parquet, and pyarrow is not installed.
    """
    query = _query(table, from_s, to_s)
    with _beside(out) as path:
        return _parquet(engine, query, path) if form == "parquet" else _jsonl(engine, query, path)


def _query(name: str, from_s: float | None, to_s: float | None) -> sa.Select[Any]:
    if name not in TIMES:
        raise UsageError(f"table: one of {', '.join(TIMES)} expected, {name[:40]!r} received")
    table, column = tables.metadata.tables[name], TIMES[name]
    query = sa.select(table).order_by(*table.primary_key.columns)
    if column is None and (from_s is not None or to_s is not None):
        raise UsageError(f"{name}: no time range expected, its rows have no time")
    if column is not None and from_s is not None:
        query = query.where(table.c[column] >= from_s)
    if column is not None and to_s is not None:
        query = query.where(table.c[column] < to_s)
    return query


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A file beside the wanted one, which takes its place when all went well."""
    path = out.with_name(f".{out.name}.part")
    try:
        yield path
        path.replace(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        path.unlink(missing_ok=True)


def _chunks(engine: Engine, query: sa.Select[Any]) -> Iterator[list[dict[str, Any]]]:
    with schema.read(engine) as connection:
        found = connection.execution_options(yield_per=CHUNK_ROWS).execute(query)
        for part in found.mappings().partitions():
            yield [dict(row) for row in part]


def _jsonl(engine: Engine, query: sa.Select[Any], path: Path) -> int:
    total = 0
    with path.open("wb") as file:
        for rows in _chunks(engine, query):
            for row in rows:
                shown = {name: base64.b64encode(v).decode() if isinstance(v, bytes) else v for name, v in row.items()}
                file.write(msgspec.json.encode(shown) + b"\n")
            total += len(rows)
    return total


def _parquet(engine: Engine, query: sa.Select[Any], path: Path) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingExtra("parquet", "pyarrow") from error
    kinds = [(sa.Boolean, pa.bool_()), (sa.Integer, pa.int64()), (sa.Float, pa.float64())]
    kinds += [(sa.LargeBinary, pa.binary()), (sa.String, pa.string())]
    fields = []
    for column in query.selected_columns:
        kind = next(arrow for one, arrow in kinds if isinstance(column.type, one))
        fields.append(pa.field(column.name, kind, nullable=bool(getattr(column, "nullable", True))))
    total, shape = 0, pa.schema(fields)
    with pq.ParquetWriter(path, shape, compression="zstd") as writer:
        for rows in _chunks(engine, query):
            writer.write_table(pa.Table.from_pylist(rows, schema=shape))
            total += len(rows)
    return total
