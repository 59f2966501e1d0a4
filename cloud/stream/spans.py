"""Spans of the cloud's stages: from a message's receipt by Kafka to what a stage made of it, in the trace that the device began."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from covey.telemetry import is_traceparent
from covey.tracing import child

if TYPE_CHECKING:
    from cloud.stream.kafka import Record
    from covey.tracing import Tracing


class Spans:
    """One stage's spans; where no collector is named, traces go on as they came.

    Args:
        tracing: of the process, or None.
        stage: name of the spans.
    """

    def __init__(self, tracing: Tracing | None, stage: str) -> None:
        self._tracing, self._stage = tracing, stage

    def passed(self, record: Record, traceparent: str, about: dict[str, str | int | float | bool]) -> str:
        """A message has been dealt with: tell that, where it is traced.

        Args:
            record: it, with the span of whoever produced it, if that was told.
            traceparent: the event's own trace context, or "".
            about: what to say of it.

        Returns:
            The trace context to go on with: of the span told, else the event's own.
        """
        above = record.trace if is_traceparent(record.trace) else traceparent
        if self._tracing is None or not above:
            return traceparent
        now_s, own = time.time(), child(above)
        told: dict[str, str | int | float | bool] = {
            "covey.device": record.key,
            "messaging.kafka.offset": record.offset,
        }
        told |= {
            "messaging.destination.name": record.topic,
            "messaging.destination.partition.id": str(record.partition),
        }
        self._tracing.record(self._stage, own, above, min(record.received_s or now_s, now_s), now_s, told | about)
        return own
