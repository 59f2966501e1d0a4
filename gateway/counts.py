"""What a gateway counts, and how it reads as plain data. No network; the only clock is the time of its start.

One thread writes; readers (the health port) take a snapshot. `exposition.py` writes it as Prometheus text.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from covey import exposition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# name -> (label or "", help); the order in which they are shown. A name ending in `_s` is in seconds.
COUNTERS: dict[str, tuple[str, str]] = {
    "received": ("kind", "MQTT messages received, by kind of topic"),
    "received_bytes": ("", "payload bytes received"),
    "delivered": ("topic", "records that Kafka has confirmed"),
    "mapped": ("topic", "messages of plain devices taken by a mapping, by Kafka topic"),
    "headers_produced": ("", "records produced with headers (the slower path)"),
    "deadletter": ("reason", "messages put aside, by reason"),
    "pubacks": ("", "MQTT messages acknowledged to the broker after Kafka's delivery report"),
    "pubacks_dropped": ("", "acknowledgements void because their connection had ended; the broker sends again"),
    "retries": ("", "records that Kafka refused for now and that were produced again"),
    "producer_rebuilds": ("", "times the producer had to be made anew"),
    "acks": ("", "ack messages published to devices"),
    "ack_events": ("", "event identities in them"),
    "desired": ("", "desired messages published"),
    "commands": ("", "commands published"),
    "commands_expired": ("", "commands dropped because their time was over"),
    "commands_away": ("", "commands that no device was there to take, to be tried again"),
    "commands_given_up": ("", "commands dropped because too many devices were away"),
    "too_large_down": ("kind", "messages to devices dropped because the MQTT broker takes none so large"),
    "bad_downlink": ("topic", "records of a downlink topic that could not be read"),
    "mqtt_connects": ("", "MQTT connections made"),
    "connection_losses": ("", "MQTT connections that ended without our asking"),
    "kafka_starts": ("", "times the Kafka side was set up"),
}
# name -> (how those of several processes become one, help)
GAUGES: dict[str, tuple[Literal["sum", "min", "max"], str]] = {
    "pending": ("sum", "messages received and not confirmed by Kafka"),
    "in_flight": ("sum", "MQTT messages received and not yet acknowledged to the broker"),
    "kafka_queue": ("sum", "records waiting in the Kafka client, sent or not"),
    "held_back": ("max", "1 while reading from MQTT is stopped because Kafka takes no more"),
    "oldest_s": ("max", "age of the oldest message that Kafka has not confirmed"),
    "ack_book_devices": ("sum", "devices that an ack message is due to"),
    "mqtt_connected": ("min", "1 when subscribed at the MQTT broker"),
    "kafka_connected": ("min", "1 when a Kafka broker is connected"),
    "generation": ("max", "number of the present MQTT connection since the start"),
    "desired_known": ("sum", "devices with a desired state in memory"),
    "start_time_s": ("min", "when the process began, since the epoch"),
    "commands_waiting": ("sum", "commands that no device has yet"),
}
# name -> (upper bounds, help); fixed, so that processes and restarts can be added up
HISTOGRAMS: dict[str, tuple[tuple[float, ...], str]] = {
    "ack_delay_s": (
        (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60),
        "from the receipt of an MQTT message to its acknowledgement, each message counted",
    ),
    "batch_messages": (
        (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000),
        "MQTT messages in one receive",
    ),
}


class Histogram(NamedTuple):
    """A histogram at one moment."""

    bounds: tuple[float, ...]  # (B,) inclusive upper bounds, ascending
    counts: tuple[int, ...]  # (B + 1,) not cumulative; the last is above every bound
    total: float  # sum of the values

    @property
    def values(self) -> int:
        """How many values."""
        return sum(self.counts)

    def plain(self) -> dict[str, object]:
        """As JSON: count, sum, p50 and p99 (null when empty), and the counts by upper bound, not cumulative."""
        names = [f"{bound:g}" for bound in self.bounds] + ["+Inf"]
        shown: dict[str, object] = {"count": self.values, "sum": round(self.total, 6)}
        shown |= {f"p{q * 100:g}": quantile(self.bounds, self.counts, q) for q in (0.5, 0.99)}
        return shown | {"buckets": dict(zip(names, self.counts, strict=True))}


def quantile(bounds: Sequence[float], counts: Sequence[int], q: float) -> float | None:
    """Estimate of a quantile from a histogram; None when it is empty.

    Args:
        bounds: (B,) inclusive upper bounds, ascending, > 0.
        counts: (B + 1,) not cumulative.
        q: in (0, 1].

    Source: the rule of Prometheus' `histogram_quantile`: linear within the bucket; the highest bound when above it.
    """
    rank = q * sum(counts)
    if rank <= 0:
        return None
    below = 0
    for i, bound in enumerate(bounds):
        if below + counts[i] >= rank:
            lower = bounds[i - 1] if i else 0.0
            return round(lower + (bound - lower) * (rank - below) / counts[i], 6)
        below += counts[i]
    return float(bounds[-1])


class _Running:
    """A histogram that one thread adds to."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0


class Counts:
    """Counters by name and label, gauges and histograms."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._running = {name: _Running(bounds) for name, (bounds, _help) in HISTOGRAMS.items()}
        self.gauges: dict[str, float] = dict.fromkeys(GAUGES, 0)
        self.gauges["start_time_s"] = round(time.time(), 3)

    def add(self, name: str, n: int = 1, label: str = "") -> None:
        """Count `n` more; `name` is a key of COUNTERS."""
        key = (name, label)
        self._counts[key] = self._counts.get(key, 0) + n

    def observe(self, name: str, value: float, n: int = 1) -> None:
        """Put `n` values into a histogram; `name` is a key of HISTOGRAMS, `value` >= 0 in its unit."""
        running = self._running[name]
        running.counts[bisect_left(running.bounds, value)] += n
        running.total += value * n

    def get(self, name: str, label: str = "") -> int:
        """One count; 0 when nothing was counted."""
        return self._counts.get((name, label), 0)

    def histogram(self, name: str) -> Histogram:
        """One histogram as it is now."""
        running = self._running[name]
        return Histogram(running.bounds, tuple(running.counts), running.total)

    def snapshot(self) -> dict[str, object]:
        """Everything as plain data: labelled counters and histograms are objects."""
        counts = dict(self._counts)
        shown: dict[str, object] = {}
        for name, (label, _help) in COUNTERS.items():
            if label:
                shown[name] = {key[1]: n for key, n in sorted(counts.items()) if key[0] == name}
            else:
                shown[name] = counts.get((name, ""), 0)
        return shown | dict(self.gauges) | {name: self.histogram(name).plain() for name in HISTOGRAMS}

    def prometheus(self) -> str:
        """Everything as Prometheus text format 0.0.4."""
        counts = dict(self._counts)
        families: list[exposition.Family] = []
        for name, (label, about) in COUNTERS.items():
            values = sorted((which[1], n) for which, n in counts.items() if which[0] == name)
            if label:
                rows = [exposition.Sample("_total", ((label, value),), n) for value, n in values]
            else:
                rows = [exposition.Sample("_total", (), counts.get((name, ""), 0))]
            families.append(exposition.Family(metric(name), "counter", about, rows))
        for name, (_how, about) in GAUGES.items():
            rows = [exposition.Sample("", (), self.gauges[name])]
            families.append(exposition.Family(metric(name), "gauge", about, rows))
        for name, (_bounds, about) in HISTOGRAMS.items():
            seen = self.histogram(name)
            rows = exposition.histogram_samples(seen.bounds, seen.counts, seen.total)
            families.append(exposition.Family(metric(name), "histogram", about, rows))
        return exposition.text(families)


def together(snapshots: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Snapshots of several processes as one: counters and histograms added up, gauges as GAUGES says.

    Args:
        snapshots: what `Counts.snapshot` made, also as read back from JSON; other keys are left out.
    """
    shown: dict[str, object] = {}
    for name, (label, _help) in COUNTERS.items():
        parts = [s[name] for s in snapshots]
        shown[name] = _added(parts) if label else sum(parts)
    combine: dict[str, Callable[[list[float]], float]] = {"sum": sum, "min": min, "max": max}
    for name, (how, _help) in GAUGES.items():
        values = [s[name] for s in snapshots]
        shown[name] = combine[how](values) if values else 0
    for name, (bounds, _help) in HISTOGRAMS.items():
        counts = _added([s[name]["buckets"] for s in snapshots])
        names = [f"{bound:g}" for bound in bounds] + ["+Inf"]
        total = float(sum(s[name]["sum"] for s in snapshots))
        shown[name] = Histogram(bounds, tuple(counts.get(le, 0) for le in names), total).plain()
    return shown


def _added(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {key: sum(part.get(key, 0) for part in parts) for key in sorted({key for part in parts for key in part})}


def metric(name: str) -> str:
    """Name of a family for Prometheus: seconds written out (https://prometheus.io/docs/practices/naming/)."""
    return "covey_gateway_" + (name.removesuffix("_s") + "_seconds" if name.endswith("_s") else name)
