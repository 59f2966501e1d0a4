"""Training runs as `covey.learning` has them: read from the first record to the last one there is now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cloud.stream.kafka import Reader
from covey import topics, wire
from covey.errors import LinkError, WireError
from covey.rounds import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cloud.config import CloudConfig

_QUIET_S = 10.0  # without a record, before the end is reached


def read(config: CloudConfig) -> dict[str, Progress]:
    """Run -> what its lines tell, oldest first.

    Raises:
        LinkError: Kafka is out of reach, or stops answering before the end.
    """
    reader = Reader(config, (topics.LEARNING,))
    try:
        left = {place: end for place, end in reader.ends().items() if end > 0}
        reader.assign_new({})
        bodies: list[bytes] = []
        heard_s = time.monotonic()
        while left:
            for record in reader.batch(500, 0.2):
                heard_s = time.monotonic()
                bodies.append(record.value)
                place = (record.topic, record.partition)
                if record.offset + 1 >= left.get(place, 0):
                    left.pop(place, None)
            if time.monotonic() - heard_s > _QUIET_S:
                raise LinkError(
                    f"kafka {config.kafka}: the end of {topics.LEARNING} expected, nothing came for {_QUIET_S:g} s"
                )
    finally:
        reader.close()
    return runs(bodies)


def runs(bodies: Iterable[bytes]) -> dict[str, Progress]:
    """Run -> what its lines tell: by seq, repeats once, and whatever is no line of a run passed over."""
    lines: dict[str, dict[int, wire.RoundEvent]] = {}
    for body in bodies:
        try:
            event = wire.decode_round_event(body)
        except WireError:
            continue  # learning steps travel here, too
        lines.setdefault(event.run, {}).setdefault(event.seq, event)
    found: dict[str, Progress] = {}
    for run, events in sorted(lines.items(), key=lambda one: min(event.time_s for event in one[1].values())):
        found[run] = Progress()
        for _, event in sorted(events.items()):
            found[run].take(event)
    return found
