"""Every decoder of what comes from outside the process: a device's files, the link, the sensors. Add new ones to DECODERS.

A decoder here takes a folder and bytes, and does with them what the product does: most read a file in the folder. `seeds` are
right examples, from which the wrong ones are made.
"""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import struct
import zlib
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from covey import topics, wire
from covey.bundle import Calibration, read_bundle, read_calibration
from covey.certificates import from_pem
from covey.config import load
from covey.errors import DataError
from covey.ring import RingInfo, RingReader, RingWriter, create_ring
from covey.sketch import Sketch
from edge import rejected
from edge.config import AgentConfig
from edge.core import Kept
from edge.models.slots import Slots
from edge.models.update import Updater
from edge.outbox import Outbox
from edge.outbox_mark import Mark
from edge.scoring.runtimes import available
from edge.sources.files import read_recording
from edge.sources.lines import LinesReader
from edge.sources.numbers import LineBuffer, numbers
from edge.sources.tail import TailReader
from edge.status import read_status
from edge.trial import Trial
from edge_bundles import make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Decoder:
    """One of them.

    Attributes:
        name: for -k.
        seeds: right content, made in a folder.
        decode: what the product does with content; raises nothing but CoveyError.
        slow: every example costs a disk's syncs: fewer of them.
    """

    name: str
    seeds: Callable[[Path], list[bytes]]
    decode: Callable[[Path, bytes], object]
    slow: bool = False


# -- files of recordings --------------------------------------------------------------------------------------------


def crazyflie(_: Path) -> list[bytes]:
    """A small uSD log, version 2: two events, written out by the format's description."""
    head = struct.pack("<BHH", 0xBC, 2, 2)
    head += struct.pack("<H", 0) + b"fixedFrequency\0" + struct.pack("<H", 2) + b"acc.x(f)\0motor.m1(H)\0"
    head += struct.pack("<H", 1) + b"estimator\0" + struct.pack("<H", 1) + b"pos.z(d)\0"
    rows = b"".join(struct.pack("<HQfH", 0, 1000 * n, n / 7, n) for n in range(12))
    rows += struct.pack("<HQd", 1, 500, 1.5)
    return [body + struct.pack("<I", zlib.crc32(body)) for body in (head + rows, head)]


def read_crazyflie_log(folder: Path, content: bytes) -> object:
    """With its CRC put right half of the time: else nothing behind it would ever be reached."""
    if len(content) > 4 and content[0] % 2 == 0:
        content = content[:-4] + struct.pack("<I", zlib.crc32(content[:-4]))
    return _recording("log", content, folder)


def _recording(name: str, content: bytes, folder: Path) -> object:
    path = folder / name
    path.write_bytes(content)
    recording = read_recording(path)
    assert np.isfinite(recording.samples).all()
    assert recording.samples.shape[1] == len(recording.channels)
    assert all(0 <= a <= b <= len(recording.samples) for a, b in recording.segments)
    return recording


def tables(_: Path) -> list[bytes]:
    """CSVs as people have them."""
    return [
        b"time;a;b\n0;1.5;2\n1;-3;4e3\n2;0;0\n",
        b"\xef\xbb\xbfa,b\r\n1,2\r\n3,4\r\n",
        b'"a ","b,c"\n"1",2\n3,"4"\n',
    ]


def arrays(_: Path) -> list[bytes]:
    """NPZs, packed and not."""
    out = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, train=np.arange(12, dtype=np.float32).reshape(6, 2), label=np.zeros(6, np.int64))
        out.append(file.getvalue())
    return out


def mavlink_stream(_: Path) -> list[bytes]:
    """A heartbeat and an IMU, MAVLink 1 and 2, made by pymavlink: not by what is tested."""
    from pymavlink.dialects.v20 import ardupilotmega

    out = []
    for version in (1, 2):
        sender = ardupilotmega.MAVLink(io.BytesIO(), srcSystem=3, srcComponent=1)
        messages = [
            sender.heartbeat_encode(2, 3, 81, 4, 4),
            sender.scaled_imu_encode(1000, 1, 2, 3, 4, 5, 6, 7, 8, 9),
            sender.sys_status_encode(1, 1, 1, 100, 12_000, 100, 50, 0, 0, 0, 0, 0, 0),
            sender.global_position_int_encode(1010, 470_000_000, 80_000_000, 1000, 1000, 0, 0, 0, 0),
        ]
        out.append(b"".join(message.pack(sender, force_mavlink1=version == 1) for message in messages * 3))
    return out


def feed_mavlink(_: Path, content: bytes) -> object:
    """In two pieces, so that a frame may lie on both."""
    from edge.sources.mavlink import Decoder as Mavlink

    decoder = Mavlink()
    half = len(content) // 2
    readings = [*decoder.feed(content[:half], 1.0), *decoder.feed(content[half:], 1.01)]
    assert all(len(one.names) == len(one.values) for one in readings)
    return decoder.counts, decoder.vehicle, decoder.framed


def tlogs(folder: Path) -> list[bytes]:
    """The same frames with their times."""
    from pymavlink.dialects.v20 import ardupilotmega

    sender = ardupilotmega.MAVLink(io.BytesIO(), srcSystem=3, srcComponent=1)
    out = b""
    for n in range(30):
        message = sender.scaled_imu_encode(1000 + 20 * n, n, 2, 3, 4, 5, 6, 7, 8, 9)
        if n % 10 == 0:
            message = sender.heartbeat_encode(2, 3, 81, 4, 4)
        out += struct.pack(">Q", 1_790_000_000_000_000 + 20_000 * n) + message.pack(sender)
    return [out]


# -- streams --------------------------------------------------------------------------------------------------------


def lines(_: Path) -> list[bytes]:
    """JSON lines."""
    return [
        b'{"t": 1.0, "a": 1, "b": {"c": 2.5, "d": [1, 2]}}\n{"t": 1.1, "a": 2}\n',
        b'{"a": true}\n\n{"a": null, "b": "x"}\n7\n',
    ]


def read_lines(folder: Path, content: bytes) -> object:
    """As from standard input."""
    path = folder / "lines"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        reader = LinesReader(fd, 10.0, 0.5)
        readings = [one for n in range(3) for one in reader.read(1.0 + n)]
    finally:
        os.close(fd)
    buffer = LineBuffer()
    found = [numbers(line) for line in [*buffer.feed(content), buffer.last()]]
    assert all(len(one.names) == len(one.values) for one in readings)
    return reader.counts, found


def read_tail(folder: Path, content: bytes) -> object:
    """A CSV that grows."""
    path = folder / "grows.csv"
    half = len(content) // 2
    path.write_bytes(content[:half])
    reader = TailReader(str(path), 10.0, 0.5, from_start=True)
    try:
        readings = list(reader.read(1.0))
        with path.open("ab") as file:
            file.write(content[half:])
        readings += reader.read(2.0)
    finally:
        reader.close()
    assert all(len(one.names) == len(one.values) for one in readings)
    return reader.counts


# -- state on the device --------------------------------------------------------------------------------------------


def rings(folder: Path) -> list[bytes]:
    """A ring with some windows."""
    path = folder / "seed.bin"
    create_ring(path, RingInfo(("a", "b"), 10.0, 3, 5))
    with RingWriter(path) as ring:
        ring.begin_flight()
        for n in range(7):
            ring.append(struct.pack("<6f", *[n] * 6), n / 10, n)
        ring.note_flash_left(1000.0, 1e9)
    return [path.read_bytes()]


def read_ring(folder: Path, content: bytes) -> object:
    """Reader and writer; the description's CRC is put right half of the time."""
    if len(content) > 4096 and content[-1] % 2 == 0:
        length = struct.unpack_from("<I", content, 8)[0]
        if length <= 4080:
            content = content[:12] + struct.pack("<I", zlib.crc32(content[16 : 16 + length])) + content[16:]
    path = folder / "ring.bin"
    path.write_bytes(content)
    with RingReader(path) as ring:
        records = list(ring.records())
        assert all(len(one.samples) == 4 * ring.info.window * len(ring.info.channels) for one in records)
    with RingWriter(path) as writer:
        writer.flash_left()
        writer.begin_flight()
    return records


def kept_windows(_: Path) -> list[bytes]:
    """Windows of an alarm."""
    about = {"channels": ["a", "b"], "rate_hz": 10.0, "window": 3}
    return [rejected.pack("d1-aa", about, [Kept(bytes([n]) * 24, 1.0, n, 0) for n in range(3)])]


def read_kept(_: Path, content: bytes) -> object:
    """With its CRC put right half of the time."""
    if len(content) > 16 and content[-1] % 2 == 0:
        content = content[:12] + struct.pack("<I", zlib.crc32(content[16:])) + content[16:]
    return rejected.unpack(content, "kept")


def bundles(folder: Path) -> list[bytes]:
    """A right one."""
    make_bundle(folder / "seed.covey")
    return [(folder / "seed.covey").read_bytes()]


def _file(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    def decode(folder: Path, content: bytes) -> object:
        path = folder / name
        path.write_bytes(content)
        return read(path)

    return decode


def calibrations(folder: Path) -> list[bytes]:
    """One that fits the bundle of `bundles`."""
    digest = make_bundle(folder / "seed.covey")
    manifest = read_bundle(folder / "seed.covey").manifest
    defaults = manifest.defaults
    made = Calibration(
        "covey-calibration/1", digest, "2026-01-01T00:00:00.000Z", 20, 1, defaults.center, defaults.scale,
        defaults.spread, dict.fromkeys(available(), 2.0), defaults.reference,
    )  # fmt: skip
    return [msgspec.json.encode(made)]


def decode_calibration(folder: Path, content: bytes) -> object:
    """As a slot reads it; and what the scorer takes from it can be computed with."""
    seed = folder / "seed.covey"
    if not seed.exists():
        make_bundle(seed)
    bundle = read_bundle(seed)
    (folder / f"{bundle.digest}.json").write_bytes(content)
    found = read_calibration(folder, bundle.manifest, bundle.digest)
    if found is not None:
        for rows in found.reference.values():
            Sketch.from_wire(rows).quantile(0.99)
    return found


def _slots(folder: Path) -> Path:
    """Two slots filled, made once a folder."""
    state = folder / "slots"
    if not (state / "slots.json").exists():
        for n in (1, 2):
            make_bundle(folder / f"{n}.covey", gain=float(n))
            slots = Slots(state)
            slots.activate(slots.put(folder / f"{n}.covey", n, None).name)
    return state


def slot_files(name: str) -> Callable[[Path], list[bytes]]:
    """slots.json or a slot's slot.json."""
    return lambda folder: [(_slots(folder) / name).read_bytes()]


def open_slots(name: str) -> Callable[[Path, bytes], object]:
    """Opened as at a start; the file is put right again afterwards."""

    def decode(folder: Path, content: bytes) -> object:
        path = _slots(folder) / name
        right = {one: (path.parent / one).read_bytes() for one in (path.name,)}
        others = {one: one.read_bytes() for one in (folder / "slots").rglob("*.json")}
        path.write_bytes(content)
        try:
            slots = Slots(folder / "slots")
            assert slots.active is None or slots.active.bundle.digest
            assert right
            return slots.active
        finally:
            for one, before in others.items():
                one.write_bytes(before)

    return decode


def trials(_: Path) -> list[bytes]:
    """trial.json."""
    return [b'{"release":2,"digest":"%s","windows_left":20,"marks":1}' % (b"a" * 64)]


def decode_trial(folder: Path, content: bytes) -> object:
    """As at a start."""
    path = folder / "trial.json"
    path.write_bytes(content)
    trial = Trial(path)
    trial.enter()
    trial.lived(1)
    return trial.failed(2, "a" * 64)


def floors(_: Path) -> list[bytes]:
    """floors.json."""
    return [b'{"root":1,"roles":{"timestamp":{"version":3,"keys":["ab"]}},"time_s":1790000000.5}']


def decode_floors(folder: Path, content: bytes) -> object:
    """As before a fetch."""
    (folder / "floors.json").write_bytes(content)
    return Updater(folder, folder / "root.json")._read_floors()


def outboxes(folder: Path) -> list[bytes]:
    """Files with rows, some of them dropped and told."""
    path = folder / "seed.db"
    path.unlink(missing_ok=True)
    with Outbox(path, "d1", memory=folder) as box:
        for n in range(12):
            box.put(("summary", "status", "alarm")[n % 3], lambda identity: str(identity).encode() * 9, answers=f"c{n}")
        box.commit()
        box.give_up(2)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return [path.read_bytes()]


def open_outbox(folder: Path, content: bytes) -> object:
    """Whatever was there, there is an outbox afterwards that takes an alarm and gives it out."""
    path = folder / "outbox.db"
    for left in folder.glob("outbox.db*"):
        left.unlink()
    path.write_bytes(content)
    with Outbox(path, "d1", memory=folder / "none") as box:
        identity = box.put("alarm", lambda identity: str(identity).encode())
        assert box.batch(0, 100_000)[-1].body == str(identity).encode()
        box.dropped()
        assert box.acknowledge(box.places(box.id, [(1, 2**53)])) == 1
        return box.damaged


def open_outbox_beside(suffix: str) -> Callable[[Path, bytes], object]:
    """A right file, with this as its log."""

    def decode(folder: Path, content: bytes) -> object:
        path = folder / "outbox.db"
        for left in folder.glob("outbox.db*"):
            left.unlink()
        path.write_bytes(outboxes(folder)[0])
        (folder / f"outbox.db{suffix}").write_bytes(content)
        with Outbox(path, "d1", memory=folder / "none") as box:
            box.put("alarm", lambda identity: str(identity).encode())
            return len(box.batch(0, 1000))

    return decode


def logs(folder: Path) -> list[bytes]:
    """The log of an outbox that was not closed."""
    path = folder / "log.db"
    box = Outbox(path, "d1", memory=folder)
    box.put("alarm", lambda identity: str(identity).encode() * 20)
    log = (folder / "log.db-wal").read_bytes()
    box.close()
    return [log]


def marks(folder: Path) -> list[bytes]:
    """A mark."""
    mark = Mark(folder / "o.db", folder)
    mark.write("ab" * 8, 7)
    content = mark._path.read_bytes()
    mark.remove()
    return [content]


def read_mark(folder: Path, content: bytes) -> object:
    """Its CRC is put right half of the time."""
    mark = Mark(folder / "o.db", folder)
    if len(content) > 9 and content[-2] % 2 == 0:
        content = b"%08x\n" % zlib.crc32(content[9:]) + content[9:]
    mark._path.write_bytes(content)
    mark._path.chmod(0o600)
    mark.sweep()
    return mark.read()


def statuses(_: Path) -> list[bytes]:
    """status.json."""
    return [b'{"pid":1,"device":"d1","outbox":{"pending":1},"windows":4,"flights":[]}']


def decode_status(folder: Path, content: bytes) -> object:
    """As `covey edge status` reads it."""
    (folder / "status.json").write_bytes(content)
    return read_status(folder)


def configs(_: Path) -> list[bytes]:
    """An agent's."""
    text = (
        b'device = "d1"\nstate = "/tmp/x"\nmqtt = "127.0.0.1:1883"\nruntime = "litert,onnx"\nspeed = 2.0\nrepeat = false\n'
        b'sources = ["a.csv"]\nhold_reading_s = 0.5\n[links."*"]\nbytes_per_hour = 1000\nmetered = true\n'
        b'[source_channels.x]\nsource = "SERVO_OUTPUT_RAW.servo1_raw"\nscale = 65.5\n'
    )
    return [text]


def decode_config(folder: Path, content: bytes) -> object:
    """From a file, without the environment."""
    path = folder / "edge.toml"
    path.write_bytes(content)
    return load(AgentConfig, "edge", path, environ={})


# -- what comes down the link ---------------------------------------------------------------------------------------

DIGEST = hashlib.sha256(b"").hexdigest()
DOWN: dict[type[msgspec.Struct], bytes] = {
    wire.Desired: wire.encode(wire.Desired("d1", 4, "g", 2, "g/2.covey", DIGEST, 900, "http://h:1")),
    wire.Command: wire.encode(wire.Command("c1", "ping", 1.8e9)),
    wire.Ack: wire.encode(wire.Ack([wire.AckRanges("00c0ffee00c0ffee", [(1, 4), (6, 6)])])),
    wire.GatewayPresence: wire.encode(wire.GatewayPresence(True, "g1")),
}


def decode_down(kind: type[msgspec.Struct]) -> Callable[[Path, bytes], object]:
    """A value holds to its own bounds: it is the same after another round."""

    def decode(_: Path, content: bytes) -> object:
        value = wire.decode(kind, content)
        assert wire.decode(kind, wire.encode(value)) == value
        return value

    return decode


def events(_: Path) -> list[bytes]:
    """One of each kind, from what docs/protocol.md shows."""
    identity = wire.Identity("d1", "00c0ffee00c0ffee", 4)
    reported = wire.Reported(1, DIGEST, "litert")
    summary = wire.Summary(
        1.0, 2.0, 40, 0, 2.5, wire.Scores(1.0, 2.0, 3.0, 4.0, [[0, 0], [5, 20]]), wire.Drift(0.1, 1.0), reported,
        wire.Health(1, 1.0, 1, 1, 1, 1, dropped=[wire.Dropped("00c0ffee00c0ffee", 1, 2)]),
    )  # fmt: skip
    return [
        wire.make_event(identity, "summary", 1.8e9, summary, "00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
        wire.make_event(identity, "status", 1.8e9, wire.Status("start", reported)),
    ]


def decode_event(_: Path, content: bytes) -> object:
    """Envelope and data, and the sketch in it, as the store takes them."""
    event, identity = wire.decode_event(content)
    data = wire.decode_data(event)
    if isinstance(data, wire.Summary):
        Sketch.from_wire(data.score.sketch).quantile(0.5)
    assert wire.parse_identity(str(identity)) == identity
    return data


def decode_topic(_: Path, content: bytes) -> object:
    """A topic's parse is the inverse of its format."""
    address = topics.parse(content.decode(errors="replace"))
    if address.device:
        assert topics.mqtt_topic(address.device, address.kind) == content.decode(errors="replace")
    return address


def decode_identity(_: Path, content: bytes) -> object:
    """An event's id."""
    text = content.decode(errors="replace")
    identity = wire.parse_identity(text)
    assert str(identity) == text
    return identity


def decode_sketch(_: Path, content: bytes) -> object:
    """Any sketch that is taken can be asked for its quantiles."""
    try:
        rows: Any = msgspec.json.decode(content, type=list[list[int]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    sketch = Sketch.from_wire(rows)
    assert Sketch.from_wire(sketch.to_wire()) == sketch
    return [sketch.quantile(q) for q in (0.0, 0.5, 1.0)]


def certificates(_: Path) -> list[bytes]:
    """A self-signed one."""
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.derive_private_key(7, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "d1")])
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(5)
        .not_valid_before(begin).not_valid_after(begin + dt.timedelta(days=30)).sign(key, hashes.SHA256())
    )  # fmt: skip
    return [made.public_bytes(serialization.Encoding.PEM)]


def decode_certificate(_: Path, content: bytes) -> object:
    """As `doctor` and `gateway check` do: a ValueError is their line."""
    try:
        return from_pem(content)
    except ValueError as error:
        raise DataError(str(error)) from error


DECODERS = [
    Decoder("crazyflie", crazyflie, read_crazyflie_log),
    Decoder("csv", tables, lambda folder, content: _recording("t.csv", content, folder)),
    Decoder("npz", arrays, lambda folder, content: _recording("t.npz", content, folder)),
    Decoder("mavlink", mavlink_stream, feed_mavlink),
    Decoder("tlog", tlogs, lambda folder, content: _recording("t.tlog", content, folder)),
    Decoder("lines", lines, read_lines),
    Decoder("tail", tables, read_tail),
    Decoder("ring", rings, read_ring),
    Decoder("alarm-windows", kept_windows, read_kept),
    Decoder("bundle", bundles, _file("b.covey", read_bundle)),
    Decoder("calibration", calibrations, decode_calibration),
    Decoder("slots.json", slot_files("slots.json"), open_slots("slots.json"), slow=True),
    Decoder("slot.json", slot_files("b/slot.json"), open_slots("b/slot.json"), slow=True),
    Decoder("trial.json", trials, decode_trial, slow=True),
    Decoder("floors.json", floors, decode_floors),
    Decoder("outbox", outboxes, open_outbox, slow=True),
    Decoder("outbox-log", logs, open_outbox_beside("-wal"), slow=True),
    Decoder("outbox-mark", marks, read_mark),
    Decoder("status.json", statuses, decode_status),
    Decoder("config", configs, decode_config),
    *(Decoder(kind.__name__.lower(), lambda _, seed=seed: [seed], decode_down(kind)) for kind, seed in DOWN.items()),
    Decoder("event", events, decode_event),
    Decoder("topic", lambda _: [topics.mqtt_topic("d1", "ack").encode(), b"covey/v1/ab/gateway"], decode_topic),
    Decoder("identity", lambda _: [b"d1/00c0ffee00c0ffee/42"], decode_identity),
    Decoder("sketch", lambda _: [b"[[3,0],[-5,20],[37,18]]"], decode_sketch),
    Decoder("certificate", certificates, decode_certificate),
]
