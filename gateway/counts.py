"""What a gateway counts, and how it reads as Prometheus text. No clock, no network.

One thread writes; readers (the health port) take a snapshot.
"""

from __future__ import annotations

# name -> (label or "", help); the order in which they are shown
COUNTERS: dict[str, tuple[str, str]] = {
    "received": ("kind", "MQTT messages received, by kind of topic"),
    "received_bytes": ("", "payload bytes received"),
    "delivered": ("topic", "records that Kafka has confirmed"),
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
    "kafka_starts": ("", "times the Kafka side was set up"),
}
GAUGES = {
    "pending": "messages received and not confirmed by Kafka",
    "oldest_s": "age of the oldest of them in seconds",
    "mqtt_connected": "1 when subscribed at the MQTT broker",
    "kafka_connected": "1 when a Kafka broker is connected",
    "commands_waiting": "commands that no device has yet",
    "desired_known": "devices with a desired state in memory",
}


class Counts:
    """Counters by name and label, and gauges."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self.gauges: dict[str, float] = dict.fromkeys(GAUGES, 0)

    def add(self, name: str, n: int = 1, label: str = "") -> None:
        """Count `n` more; `name` is a key of COUNTERS."""
        key = (name, label)
        self._counts[key] = self._counts.get(key, 0) + n

    def get(self, name: str, label: str = "") -> int:
        """One count; 0 when nothing was counted."""
        return self._counts.get((name, label), 0)

    def snapshot(self) -> dict[str, object]:
        """Everything as plain data: labelled counters are objects."""
        counts = dict(self._counts)
        shown: dict[str, object] = {}
        for name, (label, _help) in COUNTERS.items():
            if label:
                shown[name] = {key[1]: n for key, n in sorted(counts.items()) if key[0] == name}
            else:
                shown[name] = counts.get((name, ""), 0)
        return shown | dict(self.gauges)

    def prometheus(self) -> str:
        """Text format 0.0.4."""
        counts = dict(self._counts)
        lines: list[str] = []
        for name, (label, about) in COUNTERS.items():
            metric = f"covey_gateway_{name}_total"
            lines += [f"# HELP {metric} {about}", f"# TYPE {metric} counter"]
            if label:
                for (which, value), n in sorted(counts.items()):
                    if which == name:
                        lines.append(f'{metric}{{{label}="{_escape(value)}"}} {n}')
            else:
                lines.append(f"{metric} {counts.get((name, ''), 0)}")
        for name, about in GAUGES.items():
            metric = f"covey_gateway_{name}"
            lines += [f"# HELP {metric} {about}", f"# TYPE {metric} gauge", f"{metric} {self.gauges[name]:g}"]
        return "\n".join(lines) + "\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
