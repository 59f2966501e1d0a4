"""An invented fleet that speaks through the real writer, for the pictures of the console."""

from __future__ import annotations

import random
import time
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

import cloud_events as ev
from cloud.store import changes, schema, tables
from cloud.store.writer import Received, write_batch
from covey import topics, wire
from covey.wire_alarms import Context

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.engine import Engine

THRESHOLD = 2.0
RELEASE = 42
CHANNELS = ("baro", "acc.x", "acc.y", "acc.z", "gyro.x", "gyro.y", "gyro.z", "motor.1", "motor.2", "vbat")
BATCH = 1000
GATEWAY_S = 0.038  # from the device's clock to Kafka's


class Place(NamedTuple):
    """A group: how many devices, and where they are."""

    devices: int
    lat: float
    lon: float


class InventedFleet:
    """Devices by group. What they say goes through `write_batch`, one transaction a call."""

    def __init__(self, engine: Engine, groups: dict[str, Place], seed: int = 7, prefix: str = "cf") -> None:
        self.engine = engine
        self.random = random.Random(seed)
        self.group_of: dict[str, str] = {}
        self.place_of: dict[str, wire.Position | None] = {}
        self._seq: dict[str, count[int]] = {}
        number = count()
        for group, (devices, lat, lon) in groups.items():
            for _ in range(devices):
                name = f"{prefix}-{next(number):05d}"
                self.group_of[name] = group
                at = wire.Position(self.random.gauss(lat, 0.1), self.random.gauss(lon, 0.17), 10.0)
                self.place_of[name] = at
                self._seq[name] = count(1)
        self._register()

    @property
    def devices(self) -> list[str]:
        """All names, by group."""
        return list(self.group_of)

    def of(self, group: str) -> list[str]:
        """Names of a group."""
        return [name for name, its in self.group_of.items() if its == group]

    def _register(self) -> None:
        with schema.write(self.engine) as connection:
            change = changes.number(connection)
            connection.execute(
                sa.insert(tables.devices),
                [{"device": name, "group": group, "changed": change} for name, group in self.group_of.items()],
            )

    def release(self, group: str, number: int = RELEASE, note: str = "conv-ae after 20 rounds") -> None:
        """A release of a group that this cloud knows; `ev.DIGEST` is the newest one's digest."""
        digest = ev.DIGEST if number == RELEASE else "0c" * 32
        with schema.write(self.engine) as connection:
            connection.execute(
                sa.insert(tables.releases).values(
                    group=group,
                    number=number,
                    digest=digest,
                    target=f"{group}/{number}.covey",
                    size_bytes=61_000,
                    created_s=time.time() - 86_400 * (RELEASE + 1 - number),
                    note=note,
                    wide=True,
                )
            )

    def summary(self, device: str, at_s: float, ratio: float, period_s: float = 10.0, **changes_: object) -> Received:
        """A period whose greatest score is `ratio` thresholds."""
        scores = wire.Scores(
            p50=0.7 * ratio * THRESHOLD, p95=0.8 * ratio * THRESHOLD, p99=0.9 * ratio * THRESHOLD, max=ratio * THRESHOLD,
            sketch=[[0, 0], [5, 10]],
        )  # fmt: skip
        values = {
            "start_s": at_s - period_s,
            "end_s": at_s,
            "threshold": THRESHOLD,
            "score": scores,
            "drift": wire.Drift(input=0.1, score=1.0, psi=0.04),
            "reported": ev.reported(release=RELEASE, digest=ev.DIGEST, runtime="onnx", slot="a"),
            "health": ev.health(1, memory_bytes=61_000_000, battery_v=3.7, temperature_c=41.0),
            "alarmed_windows": int(ratio >= 1) * 3,
            "position": self.place_of[device],
            **changes_,
        }
        return self._event(device, ev.summary(1, **values), at_s)

    def begin(self, device: str, channel: str, ratio: float, at_s: float | None = None) -> Received:
        """An alarm that begins; its id is the device's name and the second."""
        at_s = time.time() if at_s is None else at_s
        rest = [name for name in CHANNELS if name != channel][:6]
        shares = [wire.Share(channel, 0.56)] + [
            wire.Share(name, share) for name, share in zip(rest, (0.11, 0.07, 0.06, 0.06, 0.05, 0.04), strict=True)
        ]
        score = ratio * THRESHOLD
        data = ev.alarm(
            alarm_id=self.alarm_id(device, at_s), window=wire.WindowRef(at_s - 1, at_s, "cd" * 32), windows=3,
            release=RELEASE, runtime="onnx", score=score, peak_score=score, threshold=THRESHOLD, confidence=0.995,
            top_channel=channel, attribution=shares, flight="",
        )  # fmt: skip
        return self._event(device, data, at_s)

    def end(self, device: str, begun_s: float, at_s: float) -> Received:
        """The end of an alarm that began then."""
        data = ev.alarm(
            alarm_id=self.alarm_id(device, begun_s), state="end", window=wire.WindowRef(at_s - 1, at_s, "cd" * 32),
            release=RELEASE, runtime="onnx", score=2.2, peak_score=3.0, threshold=THRESHOLD, top_channel="baro",
        )  # fmt: skip
        return self._event(device, data, at_s)

    @staticmethod
    def alarm_id(device: str, at_s: float) -> str:
        """How its alarms are called here."""
        return f"{device}-{int(at_s)}"

    def write(self, events: Iterable[Received]) -> None:
        """Store them, a thousand at a time."""
        waiting = list(events)
        for start in range(0, len(waiting), BATCH):
            write_batch(self.engine, "invented", {}, waiting[start : start + BATCH])

    def speak(self, names: Sequence[str] | None = None, at_s: float | None = None) -> None:
        """A quiet period of some devices, or of all."""
        at_s = time.time() if at_s is None else at_s
        quiet = [max(0.1, min(0.78, self.random.gauss(0.42, 0.11))) for _ in names or self.devices]
        self.write(self.summary(name, at_s, ratio) for name, ratio in zip(names or self.devices, quiet, strict=True))

    def want(self, devices: Sequence[str], number: int = RELEASE) -> None:
        """A release is wanted of some devices."""
        with schema.write(self.engine) as connection:
            change = changes.number(connection)
            for name in devices:
                group = self.group_of[name]
                wanted = wire.Desired(
                    name, 7, group, number, f"{group}/{number}.covey", ev.DIGEST, 61_000, "http://127.0.0.1:1"
                )
                connection.execute(
                    sa.insert(tables.desired).values(
                        device=name,
                        revision=7,
                        group=group,
                        release=number,
                        message=wire.encode(wanted),
                        created_s=time.time(),
                    )
                )
                connection.execute(
                    sa.update(tables.devices).where(tables.devices.c.device == name).values(changed=change)
                )

    def explain(self, event: Received, peers: int, same: int, level: str = "high") -> None:
        """What the stages enrich and route would say of an alarm."""
        device, outbox, seq = event.identity
        alarm = event.data
        assert isinstance(alarm, wire.Alarm)
        key = {"device": device, "outbox": outbox, "seq": seq, "alarm_id": alarm.alarm_id}
        at_s = event.received_s
        context = Context(
            group=self.group_of[device], peers=peers, peers_alarming=same, peers_same_channel=same, lift=9.8,
            alarms_24h=1, alarms_7d=3, confirmed_30d=2, drift_psi=0.08, release_age_s=320_000.0,
        )  # fmt: skip
        with schema.write(self.engine) as connection:
            alarms = tables.alarms
            mine = sa.and_(alarms.c.device == device, alarms.c.alarm_id == alarm.alarm_id)
            connection.execute(sa.update(alarms).where(mine).values(changed=changes.number(connection)))
            connection.execute(
                sa.insert(tables.enrichments).values(
                    **key, context=wire.encode(context).decode(), enriched_s=at_s + 0.06
                )
            )
            connection.execute(
                sa.insert(tables.routings).values(**key, level=level, rule="confidence-and-peers", routed_s=at_s + 0.07)
            )
            told = {
                "target": "oncall",
                "state": "delivered",
                "tries": 1,
                "next_s": at_s,
                "made_s": at_s + 0.07,
                "body": b"{}",
            }
            connection.execute(sa.insert(tables.deliveries).values(**key, **told, done_s=at_s + 0.2))

    def _event(self, device: str, data: wire.Summary | wire.Alarm, at_s: float) -> Received:
        identity = wire.Identity(device, ev.OUTBOX, next(self._seq[device]))
        kind = "alarm" if isinstance(data, wire.Alarm) else "summary"
        content = wire.make_event(identity, kind, at_s, data)
        event, _ = wire.decode_event(content)
        topic = topics.ALARMS if kind == "alarm" else topics.SUMMARIES
        return Received(identity, event, wire.decode_data(event), content, at_s + GATEWAY_S, topic)
