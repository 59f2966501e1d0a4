"""The verdict on a run: what a fleet wrote, by its ledger, against what the store holds, by `covey cloud export`. Pure.

Rules, by identity (device, outbox, seq); "the right bytes" are those whose sha256 the ledger has:

* *written*: in the ledger. *stored*: written, and a line has the right bytes.
* *lost*: written, and no line at all. Split by whether the device was told that the cloud has it: *acknowledged_missing* is the
  real crime; *on_device* is not lost yet, the device still has it and would send it again.
* *duplicate*: lines beyond the first with the right bytes. *conflicting*: identities with a line of other bytes.
* *unknown*: lines of one of this ledger's outboxes that it never wrote. *foreign*: lines of outboxes that it does not have
  (another fleet, an earlier run of the same one, real devices); they are counted and otherwise left alone.
* *late*: stored events received after a later one of the same device. *holes*: numbers below a device's newest stored one
  that are not stored. Both are allowed: order is a property of the store.
* delivery delay: received_s (Kafka's clock) minus true time, of stored events; *early* counts those below zero, which no road
  can bring about: the two clocks differ.

The verdict is clean when acknowledged_missing, duplicate, conflicting and unknown are all 0. Events that are acknowledged and still
on their way from Kafka into the store look missing: export when the store has drained.

`stored.py` reads and matches the lines, `detection.py` judges the alarms, `timeline.py` cuts the run into steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from msgspec import Struct

from firmware_sim.detection import Detection, detect, flown_hours
from firmware_sim.figures import Quantiles, quantiles, share
from firmware_sim.ledger import KINDS, MAX_SEQ
from firmware_sim.stored import NAMED, Stored
from firmware_sim.timeline import Timeline, timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from firmware_sim.facts import Facts
    from firmware_sim.stored import Line

WORST = 20
_CHUNK = 50_000
_BIN_EDGES_S = np.logspace(-3, 5, 8 * 10 + 1)  # of delivery delays: ten to a decade, 1 ms to 28 h


class Problem(Struct, frozen=True):
    """One event that makes the verdict bad."""

    what: Literal["acknowledged_missing", "duplicate", "conflicting", "unknown"]
    event: str  # its identity


class Lost(Struct, frozen=True):
    """Events written and not stored."""

    total: int
    acknowledged_missing: int
    on_device: int


class Delivery(Struct, frozen=True):
    """How long events took from being written to being received; `name` is a link profile or a kind, by `by`."""

    by: Literal["all", "link", "kind"]
    name: str
    devices: int
    delay_s: Quantiles
    counts: list[int]  # by `delay_edges_s`; what lies outside is in the first and the last


class Volume(Struct, frozen=True):
    """How much was said."""

    payload_bytes: int  # of all events, each once
    payload_bytes_per_device_hour: float | None
    bytes_per_event: float | None
    raw_bytes: int | None  # samples scored, where the simulator told
    sent_bytes: int | None  # on the links with repeats and MQTT, where the simulator told
    saving: float | None  # raw bytes for each byte of payload


class DeviceReport(Struct, frozen=True):
    """One device."""

    device: str
    link: str
    written: int
    stored: int
    acknowledged_missing: int
    on_device: int
    duplicate: int
    conflicting: int
    unknown: int
    late: int
    max_delay_s: float | None


class Report(Struct, frozen=True):
    """What `covey sim report` prints."""

    clean: bool
    scenario: str
    seed: int | None
    live: bool  # the ledger was still being written: figures move
    start_s: float
    end_s: float
    devices: int
    device_hours: float
    flight_hours: float
    written: int
    acknowledged: int
    lines: int
    stored: int
    lost: Lost
    duplicate: int
    conflicting: int
    unknown: int
    foreign: int
    late: int
    holes: int
    early: int
    problems: list[Problem]  # the first few of each
    delivery: list[Delivery]  # all, then by link, then by kind
    delay_edges_s: list[float]
    volume: Volume
    detection: Detection
    timeline: Timeline
    worst: list[DeviceReport]


def compare(facts: Facts, lines: Iterable[Sequence[Line]]) -> Report:
    """Judge a run.

    Args:
        facts: the ledger, read after the export was taken.
        lines: stored events in chunks, in any order.
    """
    seen = Stored(facts)
    for chunk in lines:
        seen.add(chunk)
    events = facts.events
    stored = seen.right > 0
    acked = ~np.isnan(events.acked_s)
    lost = (seen.right == 0) & (seen.wrong == 0)
    missing, waiting = lost & acked, lost & ~acked
    double, conflicting = seen.right > 1, seen.wrong > 0
    late, holes = _order(facts, stored, seen.received_s)
    start_s, end_s = _span(facts)
    delay_s = seen.received_s - events.true_s
    counts = {
        "acknowledged_missing": missing,
        "on_device": waiting,
        "duplicate": np.where(double, seen.right.astype(np.int64) - 1, 0),
        "conflicting": conflicting,
        "late": late,
    }
    arrived = {one.key for one in facts.alarms if stored[np.searchsorted(events.key, one.key)]}
    device_hours = len(facts.devices) * max(0.0, end_s - start_s) / 3600
    return Report(
        clean=not (missing.any() or double.any() or conflicting.any() or seen.unknown_lines),
        scenario=str(facts.meta.get("scenario", "")),
        seed=_integer(facts.meta.get("seed")),
        live=facts.live,
        start_s=start_s,
        end_s=end_s,
        devices=len(facts.devices),
        device_hours=device_hours,
        flight_hours=flown_hours(facts.flights, {}, end_s)[0],
        written=len(events.key),
        acknowledged=int(acked.sum()),
        lines=seen.lines,
        stored=int(stored.sum()),
        lost=Lost(int(lost.sum()), int(missing.sum()), int(waiting.sum())),
        duplicate=int(counts["duplicate"].sum()),
        conflicting=int(conflicting.sum()),
        unknown=seen.unknown_lines,
        foreign=seen.foreign,
        late=int(late.sum()),
        holes=holes,
        early=int((delay_s < 0).sum()),
        problems=[
            *_problems(facts, "acknowledged_missing", missing),
            *_problems(facts, "duplicate", double),
            *_problems(facts, "conflicting", conflicting),
            *(Problem("unknown", one) for one in seen.unknown),
        ],
        delivery=_delivery(facts, stored, delay_s),
        delay_edges_s=_BIN_EDGES_S.tolist(),
        volume=_volume(facts, device_hours),
        detection=detect(facts, arrived, end_s),
        timeline=timeline(facts, seen.received_s, start_s, end_s),
        worst=_worst(facts, counts, seen.unknown_of, stored, delay_s),
    )


def _span(facts: Facts) -> tuple[float, float]:
    """(start, end) of the run in true time: what the simulator told, else its first and last event."""
    true_s = facts.events.true_s
    start_s, end_s = facts.meta.get("start_epoch_s"), facts.meta.get("end_s")
    first_s = float(true_s.min()) if len(true_s) else 0.0
    last_s = float(true_s.max()) if len(true_s) else first_s
    start = float(start_s) if isinstance(start_s, int | float) else first_s
    return start, max(start, float(end_s) if isinstance(end_s, int | float) else last_s)


def _order(facts: Facts, stored: NDArray[np.bool_], received_s: NDArray[np.float64]) -> tuple[NDArray[np.bool_], int]:
    """(which stored events came after a later one, how many numbers below the newest stored one are not stored)."""
    at = np.flatnonzero(stored)
    device, late, holes = facts.events.device[at], np.zeros(len(stored), bool), 0
    if not len(at):
        return late, 0
    first = np.concatenate([[0], np.flatnonzero(np.diff(device)) + 1, [len(at)]])
    for low, high in zip(first[:-1].tolist(), first[1:].tolist(), strict=True):
        times = received_s[at[low:high]]
        soonest_after = np.minimum.accumulate(times[::-1])[::-1]  # of itself and all later ones
        late[at[low:high]] = times > soonest_after
        holes += int(facts.events.key[at[high - 1]] & MAX_SEQ) - (high - low)
    return late, holes


def _problems(
    facts: Facts, what: Literal["acknowledged_missing", "duplicate", "conflicting"], where: NDArray[np.bool_]
) -> list[Problem]:
    return [Problem(what, str(facts.identity(int(facts.events.key[n])))) for n in np.flatnonzero(where)[:NAMED]]


def _delivery(facts: Facts, stored: NDArray[np.bool_], delay_s: NDArray[np.float64]) -> list[Delivery]:
    names = sorted({one.link for one in facts.devices})
    number = np.array([names.index(one.link) for one in facts.devices], np.int64)
    link = number[facts.events.device] if len(number) else np.empty(0, np.int64)

    def one(by: Literal["all", "link", "kind"], name: str, devices: int, where: NDArray[np.bool_]) -> Delivery:
        values = delay_s[where & stored]
        low, high = _BIN_EDGES_S[0], np.nextafter(_BIN_EDGES_S[-1], 0)
        counts = np.histogram(np.clip(values, low, high), _BIN_EDGES_S)[0]
        return Delivery(by, name, devices, quantiles(values), counts.tolist())

    by_link = [one("link", name, int((number == n).sum()), link == n) for n, name in enumerate(names)]
    kinds = [(name, facts.events.kind == n) for n, name in enumerate(KINDS)]
    by_kind = [one("kind", name, len(facts.devices), where) for name, where in kinds if where.any()]
    return [one("all", "all", len(facts.devices), stored), *by_link, *by_kind]


def _volume(facts: Facts, device_hours: float) -> Volume:
    payload = int(facts.events.size_bytes.sum())
    raw = _integer(facts.meta.get("raw_bytes"))
    return Volume(
        payload_bytes=payload,
        payload_bytes_per_device_hour=share(payload, device_hours),
        bytes_per_event=share(payload, len(facts.events.key)),
        raw_bytes=raw,
        sent_bytes=_integer(facts.meta.get("sent_bytes")),
        saving=None if raw is None else share(raw, payload),
    )


def _worst(
    facts: Facts,
    counts: dict[str, NDArray[Any]],
    unknown_of: NDArray[np.int64],
    stored: NDArray[np.bool_],
    delay_s: NDArray[np.float64],
) -> list[DeviceReport]:
    """Devices with something wrong first, then those whose events took longest."""
    n, device = len(facts.devices), facts.events.device

    def per_device(values: NDArray[Any]) -> NDArray[np.int64]:
        return np.bincount(device, values, minlength=n).astype(np.int64)

    sums = {name: per_device(values) for name, values in counts.items()} | {"unknown": unknown_of}
    written, kept = per_device(np.ones(len(device))), per_device(stored)
    longest = np.full(n, -np.inf)
    np.maximum.at(longest, device[stored], delay_s[stored])
    bad = sum(sums[name] for name in ("acknowledged_missing", "duplicate", "conflicting", "unknown"))
    order = np.lexsort((-longest, -sums["on_device"], -np.asarray(bad)))[:WORST]
    return [
        DeviceReport(
            device=facts.devices[i].name,
            link=facts.devices[i].link,
            written=int(written[i]),
            stored=int(kept[i]),
            max_delay_s=float(longest[i]) if kept[i] else None,
            **{name: int(values[i]) for name, values in sums.items()},
        )
        for i in order.tolist()
    ]


def _integer(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
