"""Lineage as OpenLineage run events: training run -> bundle -> release -> alarm, from what the store holds.

Datasets: `covey://bundles` (name: digest), `covey://releases` (name: group, version: number), `covey://windows` (name: device, version: sha256 of
the window's samples, which stay on the device), `covey://alarms` (name: device, version: alarm id). Run ids: an alarm's trace id; of a training
run and of a release a UUID made of its name, so that telling it twice is telling it once.
Source: https://openlineage.io/spec/2-0-2/OpenLineage.json. The library is an extra (`lineage`).
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cloud.store import schema, tables
from covey import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent, RunState
    from sqlalchemy.engine import Connection, Engine

PRODUCER = "https://pypi.org/project/covey"  # names who wrote an event; nothing is fetched from there
NAMESPACE = "covey"


def events(engine: Engine, from_s: float | None = None, to_s: float | None = None) -> Iterator[RunEvent]:
    """Run events of training runs, releases and alarms, each kind in order of time.

    Args:
        engine: an open store.
        from_s: only what happened then or later, seconds since the epoch.
        to_s: only what happened before.
    """
    with schema.read(engine) as connection:
        yield from _runs(connection, from_s, to_s)
        yield from _releases(connection, from_s, to_s)
        yield from _alarms(connection, from_s, to_s)


def _runs(connection: Connection, from_s: float | None, to_s: float | None) -> Iterator[RunEvent]:
    table = tables.rounds
    query = sa.select(table.c.body).where(table.c.kind.in_(("started", "released", "failed")))
    for row in connection.execute(_within(query, table.c.time_s, from_s, to_s).order_by(table.c.time_s, table.c.seq)):
        line = wire.decode(wire.RoundEvent, row.body)
        state = {"started": "START", "released": "COMPLETE", "failed": "FAIL"}[line.kind]
        outputs = [_output("bundles", line.detail, "")] if line.kind == "released" else []
        yield _event(f"train/{line.run}", "train", state, line.time_s, [], outputs, {"detail": line.detail})


def _releases(connection: Connection, from_s: float | None, to_s: float | None) -> Iterator[RunEvent]:
    table = tables.releases
    query = _within(sa.select(table), table.c.created_s, from_s, to_s).order_by(table.c.created_s, table.c.number)
    for row in connection.execute(query):
        yield _event(
            f"release/{row.group}/{row.number}",
            f"release.{row.group}",
            "COMPLETE",
            row.created_s,
            [_input("bundles", row.digest, "")],
            [_output("releases", row.group, str(row.number))],
            {"note": row.note},
        )


def _alarms(connection: Connection, from_s: float | None, to_s: float | None) -> Iterator[RunEvent]:
    table, device = tables.alarms, tables.devices
    query = sa.select(table, device.c.group).join(device, device.c.device == table.c.device)
    query = query.where(table.c.begin_s.is_not(None))
    for row in connection.execute(_within(query, table.c.received_s, from_s, to_s).order_by(table.c.received_s)):
        told = {
            "alarm_id": row.alarm_id,
            "score": f"{row.score:.6g}",
            "threshold": f"{row.threshold:.6g}",
            "confidence": f"{row.confidence:.6g}",
            "channel": row.top_channel,
            "runtime": row.runtime,
            "verdict": row.verdict or "none",
        }
        yield _event(
            row.trace_id,
            f"score.{row.group}",
            "COMPLETE",
            row.received_s,
            [_input("windows", row.device, row.window_sha256), _input("releases", row.group, str(row.release))],
            [_output("alarms", row.device, row.alarm_id)],
            told,
        )


def _event(
    run: str,
    job: str,
    state: str,
    time_s: float,
    inputs: list[InputDataset],
    outputs: list[OutputDataset],
    tags: dict[str, str],
) -> RunEvent:
    from openlineage.client import event_v2
    from openlineage.client.facet_v2 import job_type_job, tags_run

    kind = job_type_job.JobTypeJobFacet(
        "STREAMING" if job.startswith("score.") else "BATCH", "COVEY", producer=PRODUCER
    )
    fields = [tags_run.TagsRunFacetFields(name, value, "covey") for name, value in tags.items() if value]
    wanted: RunState = event_v2.RunState[state]
    return event_v2.RunEvent(
        eventType=wanted,
        eventTime=wire.rfc3339(time_s),
        run=event_v2.Run(_run_id(run), {"tags": tags_run.TagsRunFacet(tags=fields, producer=PRODUCER)}),
        job=event_v2.Job(NAMESPACE, job, {"jobType": kind}),
        inputs=inputs,
        outputs=outputs,
        producer=PRODUCER,
    )


def _run_id(name: str) -> str:
    """A trace id is 128 bits as a UUID is; any other name gets one of its own, the same each time (RFC 9562, 5.5)."""
    try:
        return str(uuid.UUID(hex=name))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"covey:{name}"))


def _input(kind: str, name: str, version: str) -> InputDataset:
    from openlineage.client.event_v2 import InputDataset

    return InputDataset(f"covey://{kind}", name, facets=_version(version))


def _output(kind: str, name: str, version: str) -> OutputDataset:
    from openlineage.client.event_v2 import OutputDataset

    return OutputDataset(f"covey://{kind}", name, facets=_version(version))


def _version(version: str) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset

    if not version:
        return {}
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(version, producer=PRODUCER)}


def _within(
    query: sa.Select[Any], column: sa.Column[float], from_s: float | None, to_s: float | None
) -> sa.Select[Any]:
    if from_s is not None:
        query = query.where(column >= from_s)
    if to_s is not None:
        query = query.where(column < to_s)
    return query
