"""The two jobs of the gateway benchmark: which topics, which payloads, and how a payload tells device, number and send time.

raw    250 bytes on `bench/<device>/data`, to be bridged as they are to `bench.raw`, keyed by device
covey  summaries of about 1 kB on covey's own topics, to be validated, bridged to `covey.summaries` and acknowledged

Every message carries its device, a number that counts per device without gaps, and CLOCK_MONOTONIC in nanoseconds.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway_mqtt import publish_head

from covey import topics, wire

RAW_BYTES = 250
OUTBOX = "00112233aabbccdd"
PHASE = 1_000_000  # numbers of phase p begin at p * PHASE + 1, so that all have seven digits
_T0_S = 1_770_000_000.0


class Job(NamedTuple):
    """What a candidate is told to bridge."""

    name: str
    filter: str  # MQTT
    topic: str  # Kafka
    level: int  # of the MQTT topic: the device, which is to be the record's key
    acks: str  # MQTT filter of acknowledgements to devices; "" when there are none


RAW = Job("raw", "bench/+/data", "bench.raw", 1, "")
COVEY = Job("covey", f"{topics.ROOT}/+/+/summary", topics.SUMMARIES, 3, f"{topics.ROOT}/+/+/ack")
JOBS = {job.name: job for job in (RAW, COVEY)}


class Line(NamedTuple):
    """A device's message, ready but for packet identifier, number and send time."""

    head: bytes  # of the PUBLISH, up to the packet identifier
    body: bytes  # `body % (number, sent_ns)`


class Seen(NamedTuple):
    """What a record says of itself."""

    device: bytes
    number: int
    sent_ns: int


def device_name(i: int) -> str:
    """Nine characters."""
    return f"dev-{i:05d}"


def line(job: Job, i: int) -> Line:
    """The message of device `i`."""
    device = device_name(i)
    if job is RAW:
        body = b'{"device":"%s","number":%%7d,"sent_ns":%%20d,"values":"' % device.encode()
        body += b"x" * (RAW_BYTES - len(body % (PHASE, 0)) - 2) + b'"}'
        topic = f"bench/{device}/data"
    else:
        body = _event(device)
        topic = topics.mqtt_topic(device, "summary")
    return Line(publish_head(topic, len(body % (PHASE, 0))), body)


def read(job: Job, value: bytes) -> Seen:
    """The inverse of `line`."""
    if job is RAW:
        return Seen(value[11:20], int(value[31:38]), int(value[49:69]))
    at = value.index(b'"id":"') + 6
    sent = value.index(b'"flight":"') + 10
    return Seen(value[at : at + 9], int(value[at + 27 : at + 34]), int(value[sent : sent + 20]))


def _event(device: str) -> bytes:
    data = wire.Summary(
        start_s=_T0_S,
        end_s=_T0_S + 10.0,
        windows=16,
        alarmed_windows=0,
        threshold=2.4375,
        score=wire.Scores(
            p50=0.8125,
            p95=1.40625,
            p99=1.71875,
            max=1.9453125,
            sketch=[[0, 0], *([i, 1 + i % 3] for i in range(120, 128))],
        ),
        drift=wire.Drift(
            input=0.265625,
            score=1.046875,
            psi=0.0625,
            shift=0.4375,
            channel="stateEstimate.az",
            sketch=[[0, 0], [-20, 3], [-15, 9], [-10, 4]],
        ),
        reported=wire.Reported(release=3, digest="ab" * 32, runtime="litert", calibration="cd" * 32, slot="a"),
        health=wire.Health(
            memory_bytes=81_234_567,
            cpu_s=123.25,
            outbox_rows=4,
            outbox_bytes=4_321,
            raw_bytes=987_654,
            uplink_bytes=98_765,
            temperature_c=47.5,
            battery_v=15.25,
        ),
        flight="0" * 20,
        position=wire.Position(47.397742, 8.545594, 488.25),
    )
    event = wire.make_event(wire.Identity(device, OUTBOX, PHASE), "summary", _T0_S, data)
    assert b"%" not in event
    return event.replace(f"{OUTBOX}/{PHASE}".encode(), f"{OUTBOX}/%d".encode()).replace(
        b'"%s"' % (b"0" * 20), b'"%020d"'
    )
