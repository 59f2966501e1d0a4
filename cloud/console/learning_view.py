"""Releases, steps of the loop and training runs as their pages show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
import sqlalchemy as sa
from msgspec import Struct

from cloud.console import pages
from cloud.store import reader, schema, tables
from covey import wire

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


RUNS = 200  # newest that are listed


class Release(Struct):
    """A release, and how many devices want it, run it, and are still `waiting` to run what is wanted of them."""

    group: str
    number: int
    digest: str
    size_bytes: int
    created_s: float
    note: str
    wide: bool
    wanted: int
    running: int
    waiting: int


class LearningStep(Struct):
    """A step of the loop."""

    id: int
    time_s: float
    kind: str
    group: str
    device: str
    release: int
    digest: str
    detail: str


class Run(Struct):
    """A training run as its lines tell it."""

    run: str
    family: str = ""
    engine: str = ""
    state: Literal["running", "released", "failed"] = "running"
    started_s: float = 0.0
    ended_s: float | None = None
    rounds: int = 0
    wanted: int = 0
    clients: int = 0
    loss: float | None = None
    detail: str = ""


class Round(Struct):
    """A whole round's figures."""

    round: int
    clients: int
    refused: int
    missing: int
    windows: int
    bytes_up: int
    bytes_down: int
    seconds: float
    loss: float | None


class Heard(Struct):
    """What a device did in the last question."""

    device: str
    state: str
    detail: str


class RunWhole(Run):
    """A run with its rounds."""

    lines: list[Round] = []
    gates: dict[str, float] = {}
    devices: list[Heard] = []


def releases(engine: Engine, group: str | None) -> list[Release]:
    """Releases by group and number."""
    rows = reader.releases(engine, group)
    return [Release(**{name: row[name] for name in Release.__struct_fields__}) for row in rows]


def steps(engine: Engine, limit: int, after: str | None) -> tuple[list[LearningStep], str | None]:
    """Steps of the loop, newest first.

    Raises:
        Refused: `after` is no page's.
    """
    table = tables.learning
    query = sa.select(table).order_by(table.c.id.desc()).limit(limit + 1)
    place = pages.place(after, int)
    if place is not None:
        query = query.where(table.c.id < place)
    with schema.read(engine) as connection:
        found = [LearningStep(**row) for row in connection.execute(query).mappings()]
    return pages.cut(found, limit, lambda step: step.id)


def runs(engine: Engine) -> list[Run]:
    """Runs, the newest first."""
    table = tables.rounds
    with schema.read(engine) as connection:
        began = sa.select(table.c.run, sa.func.max(table.c.time_s).label("last_s")).group_by(table.c.run)
        newest = [row.run for row in connection.execute(began.order_by(sa.desc("last_s")).limit(RUNS))]
        kinds = ("started", "resumed", "round", "released", "failed")
        query = sa.select(table.c.run, table.c.body).where(table.c.run.in_(newest), table.c.kind.in_(kinds))
        lines: dict[str, list[wire.RoundEvent]] = {name: [] for name in newest}
        for row in connection.execute(query.order_by(table.c.run, table.c.seq)):
            lines[row.run].append(wire.decode(wire.RoundEvent, row.body))
    return [run_of(name, events) for name, events in lines.items()]


def run(engine: Engine, name: str) -> RunWhole | None:
    """One run, or None."""
    table = tables.rounds
    with schema.read(engine) as connection:
        query = sa.select(table.c.body).where(table.c.run == name).order_by(table.c.seq)
        events = [wire.decode(wire.RoundEvent, row.body) for row in connection.execute(query)]
    return run_of(name, events) if events else None


def run_of(name: str, events: list[wire.RoundEvent]) -> RunWhole:
    """What a run's lines, by seq, tell."""
    told = RunWhole(name)
    rounds: dict[int, Round] = {}
    heard: dict[str, Heard] = {}
    for event in events:
        figures = event.figures
        if event.kind in ("started", "resumed"):
            family, _, engine = event.detail.partition(" ")
            told.family, told.engine = family, engine.strip()
            told.wanted = int(figures.get("rounds", 0))
            told.started_s = told.started_s or event.time_s
            told.state, told.ended_s, told.detail = "running", None, ""
        elif event.kind == "asked":
            heard = {}
        elif event.kind in ("answered", "refused", "missing"):
            heard[event.device] = Heard(event.device, event.kind, event.detail)
        elif event.kind == "round":
            rounds[event.round] = _round(event)
        elif event.kind == "gates":
            told.gates = figures
        elif event.kind in ("released", "failed"):
            told.state = "released" if event.kind == "released" else "failed"
            told.ended_s, told.detail = event.time_s, event.detail
    told.lines = [rounds[number] for number in sorted(rounds)]
    told.rounds, told.devices = len(rounds), list(heard.values())
    if told.lines:
        told.clients, told.loss = told.lines[-1].clients, told.lines[-1].loss
    return told


def _round(event: wire.RoundEvent) -> Round:
    figures = event.figures

    def number(name: str) -> int:
        return int(figures.get(name, 0))

    return Round(
        round=event.round,
        clients=number("clients"),
        refused=number("refused"),
        missing=number("missing"),
        windows=number("windows"),
        bytes_up=number("bytes_up"),
        bytes_down=number("bytes_down"),
        seconds=figures.get("seconds", 0.0),
        loss=figures.get("loss"),
    )


def as_row(told: Run) -> Run:
    """Without its rounds."""
    return msgspec.convert({name: getattr(told, name) for name in Run.__struct_fields__}, Run)
