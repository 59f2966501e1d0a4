"""A console in a process of its own, a store with something of everything, and clients that are logged in."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import httpx
import sqlalchemy as sa

import cloud_events as ev
from cloud.desk import accounts
from cloud.desk.audit import Actor
from cloud.store import changes, schema, tables
from cloud.store.writer import write_batch
from covey import wire
from covey.wire_alarms import Context
from processes import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Connection, Engine
    from typing_extensions import Self

    from processes import Process

PASSWORD = "correct horse battery"
ROLES = ("viewer", "operator", "admin")
RUN = "0123456789abcdef"
HERE = Actor("test", "")


class Console:
    """A running `covey cloud console`. `config`: of its `[console]`; `cloud`: keys above that table."""

    def __init__(self, folder: Path, url: str, scheme: str = "http", **config: Any) -> None:
        self.port = free_port()
        self.base = f"{scheme}://127.0.0.1:{self.port}"
        roles, cloud = config.pop("oidc_roles", {}), {"store": url, **config.pop("cloud", {})}
        lines = [f"{key} = {json.dumps(value)}" for key, value in cloud.items()]
        lines += ["[console]", f"port = {self.port}"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in config.items()]
        lines += ["[console.oidc_roles]", *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in roles.items())]
        file = folder / f"console-{self.port}.toml"
        file.write_text("\n".join(lines))
        self.process: Process = ev.cloud_process(folder, f"console-{self.port}", "console", "--config", str(file))

    def __enter__(self) -> Self:
        self.process.start(self.ready, 60)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()

    def ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.base}/readyz", verify=False, timeout=2).status_code == 200  # noqa: S501  # ours, self-signed
        return False

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.base, timeout=30, **options)

    def logged_in(self, name: str, password: str = PASSWORD) -> httpx.Client:
        """A client with a session and its CSRF token."""
        client = self.client()
        log_in(client, name, password)
        return client


def log_in(client: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Response:
    client.headers["X-CSRF-Token"] = client.get("/api/me").json()["csrf"]
    answer = client.post("/api/login", json={"name": name, "password": password})
    if answer.status_code == 200:
        client.headers["X-CSRF-Token"] = answer.json()["csrf"]
    return answer


def add_accounts(engine: Engine) -> None:
    """One of each role, called as it."""
    for role in reversed(ROLES):
        accounts.add(engine, role, role, PASSWORD, HERE)


def put_device(connection: Connection, name: str, **values: Any) -> None:
    """A device's row as the store stage writes it, with its change number."""
    table, row = tables.devices, {"device": name, "group": "default", **values}
    row["changed"] = changes.number(connection)
    statement = schema.insert(connection, table).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=row))


def put_alarm(connection: Connection, device: str, alarm_id: str, **values: Any) -> None:
    """An alarm's row as the store stage writes it, with its change number."""
    row = {
        "device": device,
        "alarm_id": alarm_id,
        "outbox": ev.OUTBOX,
        "begin_seq": 1,
        "begin_s": ev.now(),
        "received_s": ev.now(),
        "state": "begin",
        "score": 3.0,
        "peak_score": 4.0,
        "threshold": 2.0,
        "confidence": 0.99,
        "top_channel": "baro",
        "attribution": "[]",
        "windows": 4,
        "window_sha256": "",
        "release": 1,
        "digest": "",
        "calibration": "",
        "runtime": "onnx",
        "flight": "",
        "trace_id": "",
        **values,
        "changed": changes.number(connection),
    }
    statement = schema.insert(connection, tables.alarms).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["device", "alarm_id"], set_=row))


def fill(engine: Engine) -> None:
    """Something of everything: devices d1 to d3, d1's alarm a1 with all that stages and people said, a run, a release."""
    now = ev.now()
    events = [ev.received(1, ev.alarm("a1"), received_s=now - 50)]
    events += [ev.received(seq, device="d1", received_s=now - 60 + seq) for seq in range(2, 12)]
    events += [ev.received(1, device=name, received_s=now) for name in ("d2", "d3")]
    write_batch(engine, "b", {}, events)
    with schema.write(engine) as connection:
        change = changes.number(connection)
        device = tables.devices
        newest = {"period_end_s": ev.T0 + 12, "period_s": 1.0, "score_p50": 1.0, "score_max": 2.5, "threshold": 2.0}
        connection.execute(sa.update(device).values(changed=change))
        connection.execute(sa.update(device).where(device.c.device == "d1").values(newest))
        alarm = tables.alarms
        connection.execute(sa.update(alarm).values(changed=change, received_s=now - 50))
        key = {"device": "d1", "outbox": ev.OUTBOX, "seq": 1, "alarm_id": "a1"}
        context = wire.encode(Context(group="default", peers=2, peers_alarming=1, peers_same_channel=1, lift=2.5))
        connection.execute(sa.insert(tables.enrichments).values(**key, context=context.decode(), enriched_s=now - 49))
        connection.execute(sa.insert(tables.routings).values(**key, level="high", rule="loud", routed_s=now - 48))
        told = {"target": "pager", "state": "delivered", "tries": 1, "next_s": now, "made_s": now - 48, "body": b"{}"}
        connection.execute(sa.insert(tables.deliveries).values(**key, **told, done_s=now - 47))
        connection.execute(
            sa.insert(tables.releases).values(
                group="default",
                number=1,
                digest=ev.DIGEST,
                target="default/1.covey",
                size_bytes=10,
                created_s=now - 100,
                note="first",
                wide=True,
            )
        )
        lines = [
            wire.RoundEvent(RUN, 1, now - 9, "started", detail="pca local", figures={"rounds": 2.0}),
            wire.RoundEvent(RUN, 2, now - 8, "asked", 1, "round 1", figures={"devices": 2.0}),
            wire.RoundEvent(RUN, 3, now - 7, "answered", 1, "round 1", "d1"),
            wire.RoundEvent(RUN, 4, now - 6, "missing", 1, "round 1", "d2", "no answer"),
            wire.RoundEvent(RUN, 5, now - 5, "round", 1, figures={"clients": 1.0, "missing": 1.0, "loss": 0.5}),
        ]
        for line in lines:
            row = {name: getattr(line, name) for name in ("run", "seq", "time_s", "kind", "round")}
            connection.execute(sa.insert(tables.rounds).values(**row, body=wire.encode(line), changed=change))
        connection.execute(
            sa.insert(tables.dead_letters),
            [
                {
                    "broker": "b",
                    "partition": 0,
                    "offset": offset,
                    "reason": "not_json",
                    "detail": "no",
                    "topic": "t",
                    "received_s": now,
                    "size_bytes": 3,
                }
                for offset in range(3)
            ],
        )
        stage = {"stage": "store", "instance": "host:1", "partitions": 1, "lag": 0, "rate": 0.0, "wanted": 1}
        connection.execute(sa.insert(tables.stages).values(**stage, seen_s=now))


def new_store(folder: Path) -> tuple[str, Engine]:
    """An SQLite store with something of everything."""
    url, engine = ev.new_store(folder)
    fill(engine)
    return url, engine


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, int | None, Any]]:
    """Server-sent events of a response's lines: name, id, data; comments passed over."""
    name, number, data = "", None, ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("data: "):
            data = line[6:]
        elif not line and data:
            yield name, number, json.loads(data)
            name, number, data = "", None, ""


def rebuilt(view: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """What a browser does with a change."""
    rows = {row[0]: row for row in view["devices"]} | {row[0]: row for row in change.get("devices", [])}
    for name in change.get("gone", []):
        rows.pop(name, None)
    new = {key: value for key, value in change.items() if key not in ("devices", "gone")}
    return {**view, **new, "devices": sorted(rows.values(), key=lambda row: (row[1], row[0]))}
