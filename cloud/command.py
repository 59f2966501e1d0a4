"""Sends commands to devices and waits for their answers: produced to covey.commands, answered on covey.status.

A command is produced again, with the same id, while nobody answers: brokers that keep nothing, and devices that were away
when it came, still get it, and a device answers an id once. Decides nothing about who gets it; knows no store.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from cloud.stream.kafka import Reader, Writer
from covey import topics, wire
from covey.errors import LinkError, UsageError, WireError

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence
    from typing import Literal

    from cloud.config import CloudConfig
    from cloud.stream.kafka import Record

_AGAIN_S = 5.0  # the first time; then twice as long each time
_AGAIN_CAP_S = 60.0
_DELIVERY_S = 10.0
_TURN_S = 0.2


class Answer(Struct):
    """What became of one device's command.

    Attributes:
        state: sent (nobody waited) | ok | refused | expired (its time was over before the answer) | unanswered.
        seconds: from being produced to the answer.
    """

    device: str
    kind: str
    id: str
    state: Literal["sent", "ok", "refused", "expired", "unanswered"]
    detail: str = ""
    seconds: float | None = None


def send(
    config: CloudConfig,
    devices: Sequence[str],
    kind: Literal["ping", "summarise", "false-alarm", "learn"],
    *,
    alarm_id: str = "",
    superlink: str = "",
    deadline_s: float = 0.0,
    expires_s: float,
    wait_s: float,
    stop: threading.Event,
) -> list[Answer]:
    """Give a command to devices and wait for the answers.

    Args:
        config: says where Kafka is.
        devices: names, each once.
        kind: of the command.
        alarm_id: which alarm was false; of `false-alarm` only.
        superlink: host:port to join; of `learn` only.
        deadline_s: seconds since the epoch to leave it by; of `learn` only.
        expires_s: from now; in (0, 86400].
        wait_s: how long to wait for answers; 0: not at all.
        stop: ends the waiting early.

    Returns:
        One answer a device, in the order given.

    Raises:
        UsageError: `expires_s` is out of bounds.
        LinkError: Kafka cannot be reached, or did not take a command.
    """
    if not 0.0 < expires_s <= wire.MAX_COMMAND_LIFE_S:
        raise UsageError(f"--expires: (0, {wire.MAX_COMMAND_LIFE_S:g}] seconds expected, {expires_s:g} given")
    reader = Reader(config, (topics.STATUS,)) if wait_s > 0 else None
    try:
        if reader is not None:
            reader.assign_new(reader.ends())  # before anything is said: no answer can come earlier
        began_s, until_s = time.monotonic(), time.time() + expires_s
        answers = {name: Answer(name, kind, f"cmd-{secrets.token_hex(8)}", "sent") for name in devices}
        bodies = {
            a.device: wire.encode(wire.Command(a.id, kind, until_s, alarm_id, superlink, deadline_s))
            for a in answers.values()
        }
        writer = Writer(config)
        _produce(writer, bodies, config)
        if reader is not None:
            _wait(reader, writer, answers, bodies, began_s, wait_s, expires_s, stop, config)
    finally:
        if reader is not None:
            reader.close()
    return list(answers.values())


def _produce(writer: Writer, bodies: dict[str, bytes], config: CloudConfig) -> None:
    taken: list[bool] = []
    for device, body in bodies.items():
        while not writer.produce(topics.COMMANDS, device, body, taken.append):
            writer.flush(_TURN_S)
    writer.flush(_DELIVERY_S)
    if taken.count(True) < len(bodies):
        raise LinkError(f"kafka {config.kafka}: {len(bodies) - taken.count(True)} of {len(bodies)} commands not taken")


def _wait(
    reader: Reader,
    writer: Writer,
    answers: dict[str, Answer],
    bodies: dict[str, bytes],
    began_s: float,
    wait_s: float,
    expires_s: float,
    stop: threading.Event,
    config: CloudConfig,
) -> None:
    open_ids = {answer.id: answer for answer in answers.values()}
    pause_s, again_at_s = _AGAIN_S, began_s + _AGAIN_S
    while open_ids and not stop.is_set():
        now_s = time.monotonic()
        left_s = began_s + wait_s - now_s
        if left_s <= 0:
            break
        for record in reader.batch(500, min(_TURN_S, left_s)):
            status = _status_of(record)
            answer = open_ids.get(status.command) if status is not None else None
            if status is None or answer is None or answer.device != record.key:
                continue
            del open_ids[answer.id]
            expired = not status.ok and status.detail.endswith(": expired")
            answer.state = "ok" if status.ok else "expired" if expired else "refused"
            answer.detail, answer.seconds = status.detail, round(time.monotonic() - began_s, 3)
        if open_ids and again_at_s <= now_s < began_s + expires_s:
            pause_s = min(_AGAIN_CAP_S, 2 * pause_s)
            again_at_s = now_s + pause_s
            _produce(writer, {answer.device: bodies[answer.device] for answer in open_ids.values()}, config)
    for answer in open_ids.values():
        over = time.monotonic() - began_s >= expires_s
        answer.state = "expired" if over else "unanswered"
        answer.detail = "no answer before it expired" if over else f"no answer; holds {expires_s:g} s"


def _status_of(record: Record) -> wire.Status | None:
    """The answer to a command, where the record is one."""
    if b'"command"' not in record.value:
        return None
    try:
        event, _ = wire.decode_event(record.value)
        data = wire.decode_data(event)
    except WireError:
        return None
    return data if isinstance(data, wire.Status) and data.kind == "command" else None
