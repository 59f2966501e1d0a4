"""Prometheus figures of the console: taken from the live loop when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from cloud.console.live import Live


class _Console(Collector):
    def __init__(self, live: Live) -> None:
        self._live = live

    def collect(self) -> Iterable[Metric]:
        """The figures now."""
        figures = self._live.figures
        for name, text, value in (
            ("looks", "Times the store was asked what changed.", figures.looks),
            ("rows", "Changed devices and alarms read.", figures.rows),
            ("frames", "Frames told to browsers, each once however many listen.", figures.frames),
            ("cut_off", "Browsers cut off since they did not take their frames.", figures.cut_off),
            ("store_failures", "Times the store refused.", figures.failures),
        ):
            yield CounterMetricFamily(f"covey_console_{name}", text, value=value)
        yield GaugeMetricFamily("covey_console_streams", "Browsers on the stream.", value=self._live.listeners)
        devices = GaugeMetricFamily("covey_console_devices", "Active devices by status.", labels=["status"])
        counts = self._live.fleet.counts()
        inbox = counts.pop("inbox")
        for status, count in counts.items():
            devices.add_metric([status], count)
        yield devices
        yield GaugeMetricFamily("covey_console_inbox", "Alarms that need a verdict.", value=inbox)


def registry(live: Live) -> CollectorRegistry:
    """The console's own registry."""
    made = CollectorRegistry()
    made.register(_Console(live))
    ProcessCollector(registry=made)
    return made
